"""The chaos benchmark's short version on this machine, and that it can see what it counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos import FAULTS, Outcome, plans, short, summary
from benchmarks.chaos_check import LOST, WRONG, _essence, wrong
from benchmarks.chaos_points import STEPS, arm

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.e2e
@pytest.mark.mlflow
def test_a_dozen_kills_leave_nothing_lost_twice_running_or_wrong(tmp_path: Path) -> None:
    asked = ["--short", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "benchmarks.chaos", *asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads((tmp_path / "out" / "chaos.json").read_text())
    assert {fault: found["total"][fault] for fault in FAULTS} == dict.fromkeys(FAULTS, 0)
    assert found["total"]["kills"] >= 8
    assert all(row["kills"] for row in found["kinds"].values()), "every kind of kill has hit"
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert f"{len(short())} are finished" in again.stdout, "it goes on where it stopped"


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_named_step_is_a_method_that_is_there(step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if step.module == "mlflow":
        pytest.importorskip("mlflow")
    owner = getattr(__import__(step.module, fromlist=[step.owner]), step.owner)
    monkeypatch.setattr(owner, step.method, lambda *_: "done")
    died = []
    arm(step, "before", 2, lambda: died.append("before"))
    arm(step, "after", 1, lambda: died.append("after"))
    assert [getattr(owner, step.method)(), died] == ["done", ["after"]]
    assert [getattr(owner, step.method)(), died] == ["done", ["after", "before"]]


def test_the_whole_plan_has_enough_kills_of_every_kind() -> None:
    made = plans(220)
    assert sum(plan.kills for plan in made) >= 200
    assert {plan.family for plan in made} == {"step", "driver", "worker", "database", "mlflow", "disk"}
    assert {(p.step, p.side) for p in made if p.step} == {(s.name, side) for s in STEPS for side in ("before", "after")}
    assert len({plan.name for plan in made}) == len(made)


def test_a_difference_is_seen_and_counted() -> None:
    front = {"members": [{"digest": "a", "published": "models:/x/1"}], "trials": {"complete": 1}}
    there = {"result": {"front": _essence(front), "trials": [1]}, "faults": {LOST: []}}
    assert not any(wrong(there, there).values())
    assert _essence({**front, "members": [{"digest": "a", "published": "models:/y/7"}]}) == _essence(front)
    other = {**there, "result": {**there["result"], "trials": [2]}, "faults": {LOST: ["a run"]}}
    faults = wrong(other, there)
    assert [len(faults[kind]) for kind in (LOST, WRONG)] == [1, 1]
    counted = summary([Outcome(short()[0], 2, 3, 1.0, faults), Outcome(short()[0], 1, 2, 1.0, {})], {})
    (row,) = counted["kinds"].values()
    assert (row["studies"], row["kills"], row["starts"], row[LOST], row[WRONG]) == (2, 3, 5, 1, 1)
    assert counted["faults"] == {short()[0].name: faults}
