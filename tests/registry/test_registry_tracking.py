"""What a study leaves in MLflow, and what an outage leaves in the outbox."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoprune.errors import BadInput, LeaseLost
from autoprune.registry import client as mlflow_client
from autoprune.registry import names
from autoprune.registry.tracking import MlflowPublisher, NullPublisher, check_reachable
from autoprune.search.pareto import hypervolume_curve

pytestmark = pytest.mark.mlflow


def _client(uri: str) -> Any:
    return mlflow_client.connect(uri)


def _runs(uri: str, study: Any) -> tuple[Any, list[Any]]:
    client = _client(uri)
    experiment = client.get_experiment_by_name(study.name).experiment_id
    runs = client.search_runs([experiment], max_results=500)
    parents = [r for r in runs if r.data.tags.get(names.KIND_TAG) == "study"]
    assert len(parents) == 1
    return parents[0], [r for r in runs if r is not parents[0]]


def _text(uri: str, run: Any, path: str, folder: Path) -> str:
    from mlflow.artifacts import download_artifacts

    found = download_artifacts(run_id=run.info.run_id, artifact_path=path, dst_path=str(folder), tracking_uri=uri)
    return Path(found).read_text()


def test_a_driver_that_lost_its_study_publishes_nothing_more(uri, study, outbox):
    outbox.lost = True
    with pytest.raises(LeaseLost):
        MlflowPublisher(outbox, uri, study).flush()
    assert (outbox.published, outbox.attempts) == ([], {})


def test_projects_a_whole_study(uri, study, outbox, tmp_path, monkeypatch):
    elsewhere = tmp_path / "cwd"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    MlflowPublisher(outbox, uri, study).flush()

    assert outbox.outbox() == []
    assert outbox.attempts == {}
    parent, children = _runs(uri, study)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags[names.STUDY_TAG] == study.study_id
    assert parent.data.tags["autoprune.digest.model"] == "a" * 64
    assert parent.data.tags["autoprune.objectives"] == "minimize prefill_flops; minimize answer_nll"
    assert _text(uri, parent, "spec.yaml", tmp_path / "a") == study.spec_text
    assert json.loads(_text(uri, parent, "resolved.json", tmp_path / "b")) == dict(study.resolved)

    by_number = {int(r.data.tags[names.TRIAL_TAG]): r for r in children}
    assert sorted(by_number) == [0, 1, 2, 4, 5], "completed trials only"
    child = by_number[2]
    assert child.info.status == "FINISHED"
    assert child.data.tags[names.PARENT_TAG] == parent.info.run_id
    assert child.data.tags[names.DIGEST_TAG] == outbox.records[2].digest
    assert child.data.metrics["prefill_flops"] == outbox.records[2].values["prefill_flops"]
    assert child.data.metrics["slack/exact_match ge 0.95 x baseline"] == -0.01
    assert child.data.params["l1"] == "2"
    assert json.loads(child.data.params["how"]) == {"nms": {"tau": 0.8}}
    assert json.loads(_text(uri, child, "policy.json", tmp_path / "c")) == outbox.records[2].policy
    assert list(elsewhere.iterdir()) == [], "nothing lands in the current folder"
    assert (Path(uri.removeprefix("sqlite:///")).parent / "artifacts" / "demo").is_dir()


def test_front_intervals_and_curve_can_be_rebuilt_from_mlflow_alone(uri, study, outbox, tmp_path):
    MlflowPublisher(outbox, uri, study).flush()

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("demo")
    (parent,) = client.search_runs([experiment.experiment_id], f"tags.`{names.STUDY_TAG}` = '{study.study_id}'")
    folder = client.download_artifacts(parent.info.run_id, "", str(tmp_path))
    front = json.loads((Path(folder) / "front.json").read_text())
    assert front == json.loads(json.dumps(outbox.rows[-1].payload))
    member = next(m for m in front["members"] if m["selected"])
    assert member["holdout"]["exact_match"] == {"value": 0.91, "low": 0.91 - 0.011, "high": 0.91 + 0.011}
    assert parent.data.metrics["selected/exact_match.low"] == pytest.approx(0.899)

    history = client.get_metric_history(parent.info.run_id, names.HYPERVOLUME)
    curve = [m.value for m in sorted(history, key=lambda m: m.step)]
    assert curve == hypervolume_curve(outbox.records, study.objectives)
    assert len(curve) == 4
    assert curve == sorted(curve)
    assert curve[-1] > 0
    for picture in ("front.png", "hypervolume.png"):
        assert (Path(folder) / "figures" / picture).read_bytes().startswith(b"\x89PNG")


def test_flushing_again_changes_nothing(uri, study, outbox):
    MlflowPublisher(outbox, uri, study).flush()
    before = _counts(uri, study)
    outbox.published.clear()  # as if nothing had been marked: the worst replay there is
    publisher = MlflowPublisher(outbox, uri, study)
    publisher.flush()
    publisher.flush()
    assert _counts(uri, study) == before
    assert outbox.outbox() == []


@pytest.mark.parametrize("state", ["infeasible", "failed"])
def test_a_continued_study_may_begin_with_a_point_that_has_no_run(uri, study, outbox, state):
    MlflowPublisher(outbox, uri, study).flush()
    before = _counts(uri, study)
    outbox.settle(replace(outbox.records[3], number=6, state=state))
    MlflowPublisher(outbox, uri, study).flush()
    assert outbox.outbox() == []
    assert _counts(uri, study) == before


def _counts(uri: str, study: Any) -> tuple[int, int, int, dict[str, float]]:
    parent, children = _runs(uri, study)
    client = _client(uri)
    histories = sum(len(client.get_metric_history(r.info.run_id, key)) for r in children for key in r.data.metrics)
    curve = len(client.get_metric_history(parent.info.run_id, names.HYPERVOLUME))
    return len(children), histories, curve, parent.data.metrics


def test_a_study_that_goes_on_shows_as_running_again_with_its_new_spec(uri, study, outbox, tmp_path):
    MlflowPublisher(outbox, uri, study).flush()
    outbox.add("study", {})
    MlflowPublisher(outbox, uri, replace(study, spec_text="name: demo\ntrials: 64\n")).flush()
    parent, _ = _runs(uri, study)
    assert parent.info.status == "RUNNING"
    assert "trials: 64" in _text(uri, parent, "spec.yaml", tmp_path / "s")


def test_a_later_front_replaces_the_numbers_of_an_earlier_one(uri, study, outbox):
    publisher = MlflowPublisher(outbox, uri, study)
    publisher.flush()
    document = json.loads(json.dumps(outbox.rows[-1].payload))
    document["members"][1]["holdout"]["exact_match"] = {"value": 0.5, "low": 0.4, "high": 0.6}
    outbox.add("front", document)
    time.sleep(0.002)  # MLflow orders values of one step by the millisecond
    publisher.flush()
    assert _runs(uri, study)[0].data.metrics["selected/exact_match"] == 0.5


def test_members_of_the_front_are_told_apart_among_the_trials(uri, study, outbox, tmp_path):
    (row,) = [row for row in outbox.rows if row.kind == "front"]
    for member, number in zip(row.payload["members"], (2, 4, 5), strict=True):
        member["digest"] = outbox.records[number].digest
    publisher = MlflowPublisher(outbox, uri, study)
    publisher.flush()
    parent, children = _runs(uri, study)
    marks = {int(r.data.tags[names.TRIAL_TAG]): r.data.tags.get(names.FRONT_TAG) for r in children}
    assert marks == {0: None, 1: None, 2: "violated", 4: "selected", 5: "undecided"}
    chosen = next(r for r in children if r.data.tags.get(names.FRONT_TAG) == "selected")
    assert chosen.data.metrics["holdout/exact_match"] == 0.91
    assert chosen.data.metrics["holdout/exact_match.low"] == pytest.approx(0.899)
    listed = _client(uri).search_runs([parent.info.experiment_id], "tags.`autoprune.front` != ''")
    assert {int(r.data.tags[names.TRIAL_TAG]) for r in listed} == {2, 4, 5}, "as docs/registry.md says"
    page = _text(uri, parent, "front.html", tmp_path / "h")
    assert page.count("<tr") == 1 + 1 + 3
    assert "certified: exact_match &gt;= 0.95 * baseline" in page

    later = json.loads(json.dumps(row.payload))
    later["members"] = later["members"][1:]
    outbox.add("front", later)
    publisher.flush()
    marks = {int(r.data.tags[names.TRIAL_TAG]): r.data.tags.get(names.FRONT_TAG) for r in _runs(uri, study)[1]}
    assert marks[2] is None, "it has left the front"


def test_a_server_that_refuses_leaves_the_rows_and_a_replay_publishes_them_all(uri, study, outbox, refusing, caplog):
    publisher = MlflowPublisher(outbox, refusing, study)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "autoprune.registry"):
        publisher.flush()
        publisher.flush()
    assert time.monotonic() - started < 5
    assert len(outbox.outbox()) == len(outbox.rows)
    assert len(outbox.attempts[1]) == 2
    assert "no connection to 127.0.0.1" in outbox.attempts[1][0]
    warnings = [r for r in caplog.records if "is away" in r.message]
    assert len(warnings) == 1, "said once, not at every flush"
    assert refusing in warnings[0].message

    MlflowPublisher(outbox, uri, study).flush()
    assert outbox.outbox() == []
    assert len(_runs(uri, study)[1]) == 5


def test_an_outage_in_the_middle_is_taken_up_where_it_stopped(uri, study, outbox, monkeypatch, caplog):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    real, calls = MlflowClient.log_batch, []

    def broken(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise MlflowException("API request failed: connection reset")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", broken)
    publisher = MlflowPublisher(outbox, uri, study)
    with caplog.at_level(logging.INFO, "autoprune.registry"):
        publisher.flush()
        assert outbox.published == [1, 2, 3]
        assert outbox.attempts == {4: ["API request failed: connection reset"]}
        publisher.flush()
    assert outbox.outbox() == []
    assert "is back" in caplog.text
    _, children = _runs(uri, study)
    assert sorted(int(r.data.tags[names.TRIAL_TAG]) for r in children) == [0, 1, 2, 4, 5], "no run was made twice"
    assert {r.info.status for r in children} == {"FINISHED"}


@pytest.mark.parametrize("kinds", [(Exception,), (ValueError,)], ids=["of its own", "a ValueError as well"])
def test_artifacts_that_are_away_are_an_outage_whatever_their_library_raises(
    uri, study, outbox, monkeypatch, caplog, kinds
):
    """S3, Azure and the like: what botocore raises is neither an OSError nor MLflow's."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    away = type("NoCredentialsError", kinds, {"__module__": "botocore.exceptions"})

    def broken(self: Any, *args: Any, **kwargs: Any) -> None:
        raise away("Unable to locate credentials")

    with monkeypatch.context() as patched:
        patched.setattr(LocalArtifactRepository, "log_artifact", broken)
        publisher = MlflowPublisher(outbox, uri, study)
        publisher.flush()
        assert outbox.attempts == {1: ["Unable to locate credentials"]}
        assert "is away (Unable to locate credentials); the search goes on" in caplog.text
    publisher.flush()
    assert outbox.outbox() == []


def test_a_mistake_of_our_own_is_no_outage(uri, study, outbox, monkeypatch):
    def broken(*args: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("autoprune.registry.projection.describe", broken)
    with pytest.raises(RuntimeError, match="ours"):
        MlflowPublisher(outbox, uri, study).flush()


def test_a_row_that_cannot_be_published_does_not_stop_the_others(uri, study, outbox, caplog):
    outbox.rows, outbox.records = outbox.rows[:3], outbox.records[:2]
    reasons = {
        outbox.add("trial", "{not json").id: "is not JSON",
        outbox.add("trial", {"number": 9}).id: "KeyError('state')",
        outbox.add("party", {}).id: "unknown kind 'party'",
        outbox.add("publish", {"folder": "/nowhere/at/all", "tags": {}}).id: "is gone",
    }
    outbox.settle(replace(outbox.records[-1], number=6))
    publisher = MlflowPublisher(outbox, uri, study)
    with caplog.at_level(logging.WARNING, "autoprune.registry"):
        publisher.flush()
        publisher.flush()
    assert [row.id for row in outbox.outbox()] == list(reasons)
    for row, reason in reasons.items():
        assert reason in outbox.attempts[row][0]
    assert len([r for r in caplog.records if "refuses" in r.message]) == len(reasons), "said once each"


def test_publishes_the_selected_policy(uri, study, outbox, saved_policy):
    tags = {names.DIGEST_TAG: "d" * 64, "exact_match": "0.91"}
    outbox.add("publish", {"folder": str(saved_policy), "tags": tags})
    publisher = MlflowPublisher(outbox, uri, study)
    publisher.flush()
    (published,) = publisher.published
    assert (published.name, published.version, published.alias) == ("demo-policy", 1, "candidate")
    version = _client(uri).get_model_version_by_alias("demo-policy", "candidate")
    assert version.tags["exact_match"] == "0.91"
    assert version.run_id == _runs(uri, study)[0].info.run_id


def test_a_front_that_cannot_be_drawn_is_published_without_its_figure(uri, study, outbox, tmp_path, caplog):
    outbox.rows, outbox.records = outbox.rows[:3], outbox.records[:2]
    document = {"study": "demo", "baseline": {"holdout": {}}, "members": [{"policy": "p", "holdout": {}}], "trials": {}}
    outbox.add("front", document)
    MlflowPublisher(outbox, uri, study).flush()
    assert outbox.outbox() == []
    assert "no figure" in caplog.text
    assert json.loads(_text(uri, _runs(uri, study)[0], "front.json", tmp_path / "f")) == document


def test_the_curve_waits_until_its_reference_point_is_fixed(uri, study, outbox):
    everything = outbox.rows
    outbox.rows, outbox.records = everything[:3], outbox.records[:2]
    publisher = MlflowPublisher(outbox, uri, study)
    publisher.flush()
    parent, _ = _runs(uri, study)
    assert _client(uri).get_metric_history(parent.info.run_id, names.HYPERVOLUME) == []


def test_unreachable_at_the_start_is_bad_input_within_seconds(refusing, silent, monkeypatch):
    monkeypatch.setattr(mlflow_client, "_START_SECONDS", 1)
    for uri in (refusing, silent):
        started = time.monotonic()
        with pytest.raises(BadInput) as caught:
            check_reachable(uri)
        assert time.monotonic() - started < 8
        assert uri in str(caught.value)
        assert "cannot be reached" in str(caught.value)


def test_other_bad_addresses(tmp_path):
    with pytest.raises(BadInput, match="plain folder"):
        check_reachable(str(tmp_path))
    blocked = tmp_path / "file"
    blocked.write_text("not a database, " * 100)
    with pytest.raises(BadInput, match="cannot be made"):
        check_reachable(f"sqlite:///{blocked}/mlflow.db")
    with pytest.raises(BadInput, match="not a usable SQLite database"):
        check_reachable(f"sqlite:///{blocked}")
    with pytest.raises(BadInput, match=r"u:\*\*\*@"):
        check_reachable("postgresql://u:secret@127.0.0.1:1/db")


def test_a_foreign_database_is_refused_and_left_as_it_was(tmp_path):
    import sqlite3

    path = tmp_path / "optuna.db"
    with sqlite3.connect(path) as database:
        database.execute("create table alembic_version (version_num text)")
    with pytest.raises(BadInput, match="another program's tables"):
        check_reachable(f"sqlite:///{path}")
    with sqlite3.connect(path) as database:
        assert [r[0] for r in database.execute("select name from sqlite_master")] == ["alembic_version"]


def test_reachable_and_quiet(first_contact):
    """A fresh database is made without a word on stdout or stderr, and nothing else."""
    folder, process = first_contact
    assert (process.stdout, process.stderr) == ("", "")
    assert [p.name for p in folder.iterdir()] == ["x"]


def test_without_mlflow_the_outbox_stays_filled_and_one_line_says_so(outbox):
    publisher = NullPublisher()
    publisher.flush()
    assert len(outbox.outbox()) == len(outbox.rows)
    assert "\n" not in publisher.describe()
    assert "autoprune[mlflow]" in publisher.describe()


def test_metric_names():
    assert names.key("exact_match") == "exact_match"
    assert names.key("slack/exact_match >= 0.97 * baseline") == "slack/exact_match ge 0.97 x baseline"
    a, b = names.key("information_flow(layers=1/2)"), names.key("information_flow[layers=1/2]")
    assert a != b
    assert len(names.key("x" * 400)) <= 250


DIES_IN_A_MIGRATION = """
import os, signal, sys
from alembic.operations import Operations
from autoprune.registry.client import connect

Operations.add_column = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
connect(sys.argv[1]).search_experiments()
"""


def test_killed_while_mlflow_makes_its_tables_there_is_no_half_made_database(tmp_path):
    path = tmp_path / "mlflow.db"
    done = subprocess.run([sys.executable, "-c", DIES_IN_A_MIGRATION, f"sqlite:///{path}"], cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    check_reachable(f"sqlite:///{path}")
