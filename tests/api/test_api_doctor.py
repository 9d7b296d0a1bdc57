"""What `autoprune doctor` notices, each caused for real where a test can cause it, and that it changes nothing."""

from __future__ import annotations

import importlib
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import cli
from sqlalchemy import text

from autoprune.api import doctoring, installation
from autoprune.store import open_store
from autoprune.store.tables import VERSION_TABLE

ROOT = Path(__file__).resolve().parents[2]
SPEC = f"""\
schema: autoprune/spec/1
name: case
model: {{path: {ROOT / "examples" / "reference_vlm" / "checkpoint"}, device: DEVICE}}
calibration: {{records: {ROOT / "tests" / "data" / "records.jsonl"}, images: {ROOT / "tests" / "data" / "images"}, search: 2, holdout: 2}}
search_space: two_stage_mixed
objectives: [maximize exact_match, minimize prefill_flops]
search: {{trials: 8, executor: inline}}
"""  # noqa: E501


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC.replace("DEVICE", "cpu"))
    return tmp_path / "spec.yaml"


@pytest.fixture
def url(spec: Path) -> str:
    """A store beside the spec, with a study in it."""
    made = f"sqlite:///{spec.parent}/.autoprune/autoprune.db"
    with open_store(made) as store:
        store.create_study("case-1", name="case", digest="d", spec={}, resolved={})
    return made


def looked(spec: Path | None) -> dict[str, list[dict[str, str]]]:
    """The findings by name."""
    found: dict[str, list[dict[str, str]]] = {}
    for one in doctoring.doctor(spec):
        assert one["state"] in ("ok", "warn", "fail")
        assert one["todo"] or one["state"] == "ok", "what is wrong comes with what to do"
        found.setdefault(one["name"], []).append(one)
    return found


def test_a_machine_that_is_as_it_should_be(spec: Path) -> None:
    before = sorted(spec.parent.rglob("*"))
    done = cli("doctor", str(spec), "--json")
    assert done.code == 0, done.out
    assert done.json["ok"] is True
    found = {one["name"]: one for one in done.json["findings"]}
    assert "optuna 5" in found["libraries"]["said"]
    assert {found[name]["state"] for name in ("spec", "model.device", "disk", "store", "sampler")} <= {"ok", "warn"}
    assert found["store"]["said"].endswith("autoprune.db is made by the first search")
    assert sorted(spec.parent.rglob("*")) == before, "it changes nothing"
    assert cli("doctor").code == 0, "and needs no spec"


def test_what_is_wrong_is_exit_1_and_says_what_to_do(spec: Path) -> None:
    spec.write_text(SPEC.replace("DEVICE", "cuda:7"))
    done = cli("doctor", str(spec))
    assert done.code == 1
    assert "fail model.device: device 'cuda:7' is not there" in done.out
    assert "-> correct model.device, or search on a machine that has it" in done.out
    spec.write_text("schema: autoprune/spec/1\nname: case\n")
    assert looked(spec)["spec"][0]["state"] == "fail"


def test_versions_outside_the_tested_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["torch<1", "autoprune-has-no-such-library>=1", "numpy>=1", 'missing-ray; extra == "ray"']
    monkeypatch.setattr(installation.metadata, "requires", lambda _: needs)
    found = {f.name: f for f in installation.versions()}
    assert {name: f.state for name, f in found.items()} == {
        "torch": "fail",
        "autoprune-has-no-such-library": "fail",
        "numpy": "ok",
        "missing-ray": "warn",
    }
    assert "outside the tested range <1" in found["torch"].said
    assert found["missing-ray"].todo == "for several workers: pip install 'autoprune[ray]'"


@pytest.mark.parametrize(
    ("needs", "code", "says"),
    [
        ("torch>=99", "", "was built for torch>=99"),
        ("torch>=1", "raise RuntimeError('operator torchvision::nms does not exist')", "cannot be imported: operator"),
        ("torch>=1", "", "goes with torch"),
    ],
)
def test_a_torchvision_that_does_not_go_with_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: str, code: str, says: str
) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(code)
    (tmp_path / "torchvision-0.99.dist-info").mkdir()
    about = f"Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99\nRequires-Dist: {needs}\n"
    (tmp_path / "torchvision-0.99.dist-info" / "METADATA").write_text(about)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("torchvision", None)
    importlib.invalidate_caches()
    (found,) = installation.torchvision()
    sys.modules.pop("torchvision", None)
    assert says in found.said
    assert found.state == ("ok" if "goes with" in says else "fail")


def test_a_driver_at_work_one_that_died_and_what_waits(spec: Path, url: str) -> None:
    with open_store(url) as store:
        log = store.study("case-1")
        log.set_state("running")
        found = looked(spec)
        assert found["study"][0]["said"].startswith("study case-1 is marked as running, and nobody drives it")
        assert found["outbox"][0]["said"] == "1 results wait to be published"
        with log.lease("elsewhere:1"):
            (driven,) = looked(spec)["study"]
            assert driven["state"] == "ok"
            assert "driven by 'elsewhere:1' since 20" in driven["said"]


@pytest.mark.ray
def test_a_ray_cluster_is_contacted(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        port = server.getsockname()[1]
        asked = f"executor: {{ray: {{workers: 1, address: 'ray://127.0.0.1:{port}'}}}}"
        spec.write_text(SPEC.replace("DEVICE", "cpu").replace("executor: inline", asked))
        (there,) = looked(spec)["executor"]
    (gone,) = looked(spec)["executor"]
    assert (there["state"], gone["state"]) == ("ok", "fail")
    assert "which answers" in there["said"]
    assert f"no Ray cluster answers at ray://127.0.0.1:{port}" in gone["said"]
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    spec.write_text(SPEC.replace("DEVICE", "cpu").replace("executor: inline", "executor: {ray: {workers: 1}}"))
    assert looked(spec)["executor"][0]["state"] == "warn"


@pytest.mark.parametrize(
    ("revision", "state", "says"), [("9999", "fail", "newer AutoPrune"), ("0001", "warn", "tables of revision 0001")]
)
def test_tables_of_another_version(spec: Path, url: str, revision: str, state: str, says: str) -> None:
    with open_store(url) as store, store.engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{revision}'"))
    (found,) = looked(spec)["store"]
    assert (found["state"], says in found["said"]) == (state, True)


def test_databases_that_cannot_be_used(spec: Path, url: str) -> None:
    home = spec.parent / ".autoprune"
    (home / "autoprune.db").write_text("no database, but many words. " * 200)
    (home / "optuna.db").write_text("no database, but many words. " * 200)
    found = looked(spec)
    assert found["store"][0]["state"] == "fail"
    assert "not a SQLite database" in found["store"][0]["said"]
    assert found["sampler"][0]["state"] == "fail"
    assert "rebuilt from the store" in found["sampler"][0]["todo"]


@pytest.mark.mlflow
def test_mlflow_away_or_of_somebody_else(spec: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home = spec.parent / ".autoprune"
    with open_store(f"sqlite:///{home}/mlflow.db"):  # our tables where MLflow's should be
        pass
    (found,) = looked(spec)["MLflow"]
    assert "another program's tables" in found["said"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (away,) = looked(spec)["MLflow"]
    assert away["state"] == "fail"
    assert "127.0.0.1:9 cannot be reached" in away["said"]


def test_a_disk_without_room(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = doctoring.shutil.disk_usage(spec.parent)
    for free, state in ((50 * 2**20, "fail"), (2**30, "warn"), (2**40, "ok")):
        monkeypatch.setattr(doctoring.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        assert looked(spec)["disk"][0]["state"] == state
