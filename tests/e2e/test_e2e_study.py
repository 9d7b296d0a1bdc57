"""The main job end to end: one spec in, one measured, versioned policy out, loaded into generation."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import Cli, cli

import autoprune
from autoprune.redact import redacted

pytestmark = [pytest.mark.e2e, pytest.mark.mlflow]


def evaluations(spec: Path) -> int:
    """How many evaluations the study's store holds."""
    with sqlite3.connect(spec.parent / ".autoprune" / "autoprune.db") as database:
        return int(database.execute("select count(*) from autoprune_evaluations").fetchone()[0])


def test_front_has_the_promised_shape(study: Any) -> None:
    shown = cli("front", str(study.spec), "--json")
    assert shown.code == 0
    front = shown.json
    assert front == study.front
    assert set(front) >= {"study", "baseline", "members", "trials"}
    assert front["trials"]["complete"] == 6
    assert front["trials"]["running"] == 0
    assert front["members"], front.get("explanation")
    for estimate in front["baseline"]["holdout"].values():
        assert set(estimate) == {"value", "low", "high"}
    for member in front["members"]:
        assert set(member) >= {"policy", "budget", "search", "holdout", "constraints", "selected", "published"}
        assert set(member["constraints"]) == {"exact_match >= 0.5 * baseline"}
        assert set(member["constraints"].values()) <= {"certified", "undecided", "violated"}
        exact = member["holdout"]["exact_match"]
        assert exact["low"] <= exact["value"] <= exact["high"]
    assert sum(member["selected"] for member in front["members"]) == 1


def test_no_member_is_dominated_by_one_as_surely_within_the_constraints(study: Any) -> None:
    ranks = {"certified": 0, "undecided": 1, "violated": 2}
    points = [
        (max(ranks[s] for s in m["constraints"].values()), m["holdout"]["exact_match"], m["holdout"]["prefill_flops"])
        for m in study.front["members"]
    ]
    for rank, accuracy, flops in points:
        for r, a, f in points:
            better = a["value"] >= accuracy["value"] and f["value"] <= flops["value"]
            assert not (r <= rank and better and (a["value"], f["value"]) != (accuracy["value"], flops["value"]))


def test_files_of_the_study(study: Any) -> None:
    folder = study.folder / ".autoprune" / "studies" / study.front["study"]
    assert json.loads((folder / "front.json").read_text()) == study.front
    assert (folder / "front.png").stat().st_size > 5000
    assert (folder / "hypervolume.png").stat().st_size > 5000
    assert (folder / "spec.yaml").read_text() == redacted(study.spec.read_text())


def test_the_registered_policy_answers(
    study: Any, monkeypatch: pytest.MonkeyPatch, calibration: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(study.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    record = json.loads((calibration / "records.jsonl").read_text().splitlines()[0])
    image, picture = str(calibration / record["images"][0]), tmp_path / "kept.png"
    done = cli(
        "run",
        "models:/small@candidate",
        "--image",
        image,
        "--prompt",
        record["prompt"],
        "--figure",
        str(picture),
        "--json",
    )
    assert done.code == 0, done.out
    answer = done.json
    chosen = next(m for m in study.front["members"] if m["selected"])
    assert answer["tokens"] == 144
    assert answer["budget"] == pytest.approx(chosen["budget"], abs=1e-9)
    assert answer["tokens_per_layer"] == sorted(answer["tokens_per_layer"], reverse=True)
    assert answer["answer"].strip()
    assert picture.stat().st_size > 1000


def test_each_stage_of_the_selected_policy_is_explained(study: Any) -> None:
    chosen = next(m for m in study.front["members"] if m["selected"])
    found = study.front["explanations"]["stages"]
    assert found["policy"] == chosen["policy"]
    assert len(found["stages"]) + found["not_measured"] == len(chosen["document"]["stages"])
    measured = [stage for stage in found["stages"] if "reason" not in stage]
    assert measured
    for stage in measured:
        for label, effect in stage["effect"].items():
            assert stage["without"][label] + effect == pytest.approx(chosen["search"][label])
        assert stage["effect"]["prefill_flops"] < 0, "without a stage more is left to do"
    assert study.front["trials"]["complete"] == 6, "these are no trials"


def test_a_password_in_the_spec_goes_nowhere_else(study: Any) -> None:
    """Store, sampler's and MLflow's databases, artifacts, saved policies, reports: every byte is searched."""
    planted = b"pl4nted-s3cret"
    assert planted in study.spec.read_bytes()
    written = [path for path in study.folder.rglob("*") if path.is_file() and path != study.spec]
    kept = {"autoprune.db", "mlflow.db", "metadata.json", "spec.yaml", "resolved.json"}
    assert kept <= {path.name for path in written}
    assert not [path for path in written if planted in path.read_bytes()]


def test_promotion_and_listing(study: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(study.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert cli("policy", "promote", "models:/small@candidate", "--json").json["champion"] == 1
    listed = cli("policy", "list", "--json").json
    assert {p["name"] for p in listed["catalog"]} >= {
        "random",
        "stride",
        "fastv",
        "pyramiddrop",
        "fastervlm",
        "divprune",
    }
    assert set(listed["registered"][0]["aliases"]) == {"candidate", "champion"}
    exported = cli("policy", "export", "models:/small@champion", str(tmp_path / "out"), "--json")
    assert exported.json["files"] == ["front.json", "metadata.json", "policy.yaml"]
    assert_the_front_came_along(study, tmp_path / "out")
    same = cli("policy", "diff", "models:/small@champion", str(tmp_path / "out"), "--json")
    assert same.json == {"changes": []}
    other = cli("policy", "diff", "models:/small@champion", "fastv", "--json")
    assert other.json["changes"]
    wrong = cli("policy", "show", "models:/small@champoin", "--json")
    assert wrong.code == 2
    assert "champion" in wrong.json["errors"][0]["message"]


def assert_the_front_came_along(study: Any, folder: Path) -> None:
    """What was saved is the whole front, each member with its numbers, and what made them."""
    loaded = autoprune.load_policy("models:/small@champion")
    assert autoprune.load_policy(folder) == loaded
    members = study.front["members"]
    assert [m.metadata["holdout"] for m in loaded.front] == [m["holdout"] for m in members]
    fits = [m for m in members if set(m["constraints"].values()) == {"certified"}]
    gentlest = max(fits, key=lambda m: m["budget"])
    assert autoprune.load_policy(folder, budget=1.0).metadata["digest"] == gentlest["digest"]
    known = loaded.metadata
    assert known["spec"] == redacted(study.spec.read_text())
    assert len(known["calibration"]["digest"]) == 64
    assert known["software"]["torch"]
    assert known["device"]
    assert known["model"]["trust_remote_code"] is False
    assert known["certifiable"].keys() == {"exact_match >= 0.5 * baseline"}


def test_mlflow_alone_rebuilds_front_intervals_and_hypervolume(study: Any) -> None:
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    uri = f"sqlite:///{study.folder / '.autoprune' / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert len(parents) == 1
    assert len(children) == study.front["trials"]["complete"] + 1  # and the baseline
    path = download_artifacts(artifact_uri=f"runs:/{parents[0].info.run_id}/front.json", tracking_uri=uri)
    assert json.loads(Path(path).read_text())["members"] == study.front["members"]
    on_front = {r.data.tags["autoprune.policy_digest"]: r for r in children if "autoprune.front" in r.data.tags}
    assert set(on_front) == {m["digest"] for m in study.front["members"]}
    for member in study.front["members"]:
        shown = on_front[member["digest"]].data
        assert shown.metrics["holdout/exact_match"] == member["holdout"]["exact_match"]["value"]
        assert (shown.tags["autoprune.front"] == "selected") == member["selected"]
    there = {f.path for f in client.list_artifacts(parents[0].info.run_id)}
    assert {"front.json", "front.html", "figures", "policies", "spec.yaml"} <= there
    drawn = {f.path for f in client.list_artifacts(parents[0].info.run_id, "figures")}
    assert drawn == {f"figures/{name}.png" for name in ("front", "hypervolume", "schedules")}
    curve = client.get_metric_history(parents[0].info.run_id, "hypervolume")
    values = [m.value for m in sorted(curve, key=lambda m: m.step)]
    assert values == sorted(values)
    assert values[-1] > 0


def test_more_trials_continue_and_measure_nothing_twice(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    spec = write_spec(tmp_path, trials=4)
    first = cli("search", str(spec), "--json").json
    before = evaluations(spec)
    again = cli("search", str(spec), "--json").json
    assert evaluations(spec) == before
    assert again["members"] == first["members"]
    more = cli("search", str(spec), "--trials", "6", "--json").json
    assert more["study"] == first["study"]
    assert more["trials"]["complete"] == 6
    assert evaluations(spec) > before


def digest(front: dict[str, Any]) -> list[Any]:
    return [(m["digest"], m["search"], m["holdout"]) for m in front["members"]]


def test_inline_with_a_seed_repeats(study: Any, write_spec: Callable[..., Path], tmp_path: Path) -> None:
    again = cli("search", str(write_spec(tmp_path)), "--json").json
    assert digest(again) == digest(study.front)


@pytest.mark.ray
def test_ray_finds_a_front(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    spec = write_spec(tmp_path, trials=5, executor="{ray: {workers: 2}}")
    done = cli("search", str(spec), "--json")
    assert done.code == 0, done.out
    assert done.json["trials"]["complete"] == 5


def test_an_interrupted_study_continues(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    spec = write_spec(tmp_path, trials=6)
    command = [sys.executable, "-m", "autoprune", "search", str(spec), "--json"]
    # Started from a background job, this process would pass on that SIGINT is ignored.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and running.poll() is None and _settled(spec) < 2:
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    assert "interrupted" in json.loads(out)["errors"][0]["message"]
    done_before = evaluations(spec)
    finished = cli("search", str(spec), "--json")
    assert finished.code == 0
    assert finished.json["trials"]["complete"] == 6
    assert evaluations(spec) > done_before


def _settled(spec: Path) -> int:
    path = spec.parent / ".autoprune" / "autoprune.db"
    if not path.is_file():
        return 0
    try:
        with sqlite3.connect(path) as database:
            return int(database.execute("select count(*) from autoprune_trials").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # the tables are being made


def test_nothing_certified_is_exit_1(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    spec = write_spec(tmp_path, trials=4, **{"0.5 * baseline": "1.5 * baseline"})
    done: Cli = cli("search", str(spec), "--json")
    assert done.code == 1
    front = done.json
    assert not any(m["selected"] for m in front["members"])
    assert any("exact_match >= 1.5 * baseline" in line for line in front["explanation"])
