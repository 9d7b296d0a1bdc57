"""What a finished study survives: an empty registry, two drivers, PostgreSQL instead of files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import cli

pytestmark = [pytest.mark.e2e, pytest.mark.mlflow]


def shown_by(uri: str) -> dict[str, Any]:
    """All that MLflow shows of the small study, without what differs by nature (ids, times)."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    parent = next(r for r in runs if r.data.tags["autoprune.kind"] == "study")
    files = {f.path for f in client.list_artifacts(parent.info.run_id)}
    front = download_artifacts(artifact_uri=f"runs:/{parent.info.run_id}/front.json", tracking_uri=uri)
    curve = client.get_metric_history(parent.info.run_id, "hypervolume")
    versions = client.search_model_versions("name='small'")
    ours = [(k, v) for r in runs for k, v in r.data.tags.items() if k.startswith("autoprune.")]
    return {
        "runs": sorted((r.info.run_name, r.info.status, sorted(r.data.metrics.items())) for r in runs),
        "params": sorted((r.info.run_name, sorted(r.data.params.items())) for r in runs),
        "tags": sorted(ours),
        "history": sorted(len(client.get_metric_history(r.info.run_id, m)) for r in runs for m in r.data.metrics),
        "files": files,
        "front": Path(front).read_text(),
        "curve": sorted((m.step, m.value) for m in curve),
        "versions": [(v.version, dict(v.tags)) for v in versions],
        "aliases": _aliases(client),
    }


def _aliases(client: Any) -> dict[str, int]:
    return {alias: int(version) for alias, version in dict(client.get_registered_model("small").aliases).items()}


def test_sync_fills_an_empty_registry_and_changes_nothing_in_a_full_one(study: Any, tmp_path: Path) -> None:
    there = f"sqlite:///{study.folder / '.autoprune' / 'mlflow.db'}"
    before = shown_by(there)
    assert cli("sync", str(study.spec), "--json").json["studies"][0]["waiting"] == 0
    assert shown_by(there) == before
    fresh = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = f"sqlite:///{study.folder / '.autoprune' / 'autoprune.db'}"
    for _ in range(2):
        done = cli("sync", "small", "--store", store, "--tracking-uri", fresh, "--json")
        assert done.code == 0, done.out
        assert done.json["studies"][0]["trouble"] == []
        made = shown_by(fresh)
        assert {**made, "aliases": None} == {**before, "aliases": None}
        assert made["aliases"] == {"candidate": 1}, "who is champion only MLflow knew"


def test_sync_never_moves_an_alias_that_is_there(study: Any, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert cli("sync", str(study.spec), "--tracking-uri", uri).code == 0
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    first = client.get_model_version("small", "1")
    second = client.create_model_version("small", source=first.source, run_id=first.run_id)
    client.set_registered_model_alias("small", "candidate", second.version)
    assert cli("sync", str(study.spec), "--tracking-uri", uri).code == 0
    assert _aliases(client) == {"candidate": 2}


def test_sync_says_what_cannot_be_published(study: Any, tmp_path: Path) -> None:
    away = cli("sync", str(study.spec), "--tracking-uri", "http://127.0.0.1:9", "--json")
    assert away.code == 2
    assert "cannot be reached" in away.json["errors"][0]["message"]
    unknown = cli("sync", "nobody", "--store", f"sqlite:///{study.folder / '.autoprune' / 'autoprune.db'}", "--json")
    assert unknown.code == 2
    assert "holds no study 'nobody'" in unknown.json["errors"][0]["message"]


def test_a_second_driver_is_told_who_drives(study: Any) -> None:
    from autoprune.store import open_store

    with open_store(f"sqlite:///{study.folder / '.autoprune' / 'autoprune.db'}") as store:
        with store.study(study.front["study"]).lease("elsewhere:4711"):
            for command in ("search", "sync"):
                refused = cli(command, str(study.spec), "--json")
                assert refused.code == 1
                said = refused.json["errors"][0]["message"]
                assert "is being driven by 'elsewhere:4711' since 20" in said
                assert "wait for it or stop it" in said
        assert cli("search", str(study.spec), "--json").json["members"] == study.front["members"]


@pytest.fixture
def schemas(require: Callable[[str, bool, str], None]) -> Iterator[dict[str, str]]:
    """URLs of two fresh schemas in one database: for AutoPrune (and beside it Optuna), for MLflow."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.engine import make_url

    given = os.environ.get("AUTOPRUNE_TEST_POSTGRES_URL", "")
    require("postgres", bool(given), "AUTOPRUNE_TEST_POSTGRES_URL is not set")
    names = ("e2e_autoprune", "e2e_mlflow")
    engine = create_engine(given, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
    with engine.connect() as connection:
        for name in (*names, "e2e_autoprune_optuna"):
            connection.execute(text(f"DROP SCHEMA IF EXISTS {name} CASCADE"))
        for name in names:
            connection.execute(text(f"CREATE SCHEMA {name}"))
    yield {
        name: make_url(given).update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(False)
        for name in names
    }
    with engine.connect() as connection:
        tables = text("SELECT table_schema, count(*) FROM information_schema.tables GROUP BY 1")
        found = dict(connection.execute(tables).tuples().all())
        for name in (*names, "e2e_autoprune_optuna"):
            assert found.get(name, 0) > 5, f"nothing was kept in {name}"
            connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()


def test_one_postgresql_database_holds_all_three_and_gives_the_same_front(
    study: Any, schemas: dict[str, str], write_spec: Callable[..., Path], tmp_path: Path
) -> None:
    kept = f"output: {{store: '{schemas['e2e_autoprune']}', tracking_uri: '{schemas['e2e_mlflow']}', register"
    spec = write_spec(tmp_path, **{"output: {register": kept})
    done = cli("search", str(spec), "--json")
    assert done.code == 0, done.out
    assert [{**m, "published": None} for m in done.json["members"]] == [
        {**m, "published": None} for m in study.front["members"]
    ]
    assert done.json["members"][0]["published"] == "models:/small/1" or len(done.json["members"]) > 1
    assert not list((tmp_path / ".autoprune").glob("*.db"))
    again = cli("search", str(spec), "--json")
    assert again.json["members"] == done.json["members"]
    assert shown_by(schemas["e2e_mlflow"])["aliases"] == {"candidate": 1}
