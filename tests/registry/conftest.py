"""A fake store with a small finished study, and an empty MLflow database to publish it into."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from front_support import published

from autoprune.errors import LeaseLost
from autoprune.ports import TrialRecord
from autoprune.registry.outbox import StudyInfo
from autoprune.spec.expressions import parse_constraint, parse_objective

CONSTRAINT = "exact_match >= 0.95 * baseline"
OBJECTIVES = (parse_objective("minimize prefill_flops"), parse_objective("minimize answer_nll"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("mlflow") is not None:
        return
    if "mlflow" in os.environ.get("AUTOPRUNE_TEST_REQUIRE", ""):
        raise pytest.UsageError("AUTOPRUNE_TEST_REQUIRE asks for mlflow, which is not installed")
    for item in items:
        if item.get_closest_marker("mlflow"):
            item.add_marker(pytest.mark.skip(reason="mlflow is not installed"))


@dataclass(frozen=True)
class Row:
    id: int
    kind: str
    payload: Any


@dataclass
class FakeOutbox:
    """The store's side, in memory."""

    rows: list[Row] = field(default_factory=list)
    records: list[TrialRecord] = field(default_factory=list)
    published: list[int] = field(default_factory=list)
    attempts: dict[int, list[str]] = field(default_factory=dict)
    lost: bool = False

    def outbox(self) -> list[Row]:
        return [row for row in self.rows if row.id not in self.published]

    def hold(self) -> None:
        if self.lost:
            raise LeaseLost("another driver has the study")

    def mark_published(self, row_id: int) -> None:
        self.published.append(row_id)

    def mark_failed_attempt(self, row_id: int, error: str) -> None:
        self.attempts.setdefault(row_id, []).append(error)

    def trials(self) -> list[TrialRecord]:
        return self.records

    def add(self, kind: str, payload: Any) -> Row:
        row = Row(len(self.rows) + 1, kind, payload)
        self.rows.append(row)
        return row

    def settle(self, record: TrialRecord) -> None:
        self.records.append(record)
        self.add("trial", json.dumps(asdict(record)))  # as a database would keep it


def trial(number: int, fraction: float, *, origin: str = "trial", state: str = "complete") -> TrialRecord:
    policy = {"schema": "autoprune/policy/1", "name": f"p{number}", "stages": [{"at": "llm:1", "keep": fraction}]}
    values = {"prefill_flops": 4e9 * fraction, "exact_match": 0.9, "answer_nll": math.exp(-3 * fraction)}
    return TrialRecord(
        number=number,
        origin=origin,
        name=f"p{number}",
        state=state,
        policy=None if origin == "baseline" else policy,
        canonical=None if origin == "baseline" else json.dumps(policy, sort_keys=True),
        digest=f"{number:064x}",
        params={"l1": number, "how": {"nms": {"tau": 0.8}}, "stages[0].keep": fraction},
        values=values if state == "complete" else {},
        constraints={CONSTRAINT: -0.01} if state == "complete" else {},
        evaluation_key=f"{number:064d}",
        seconds=1.5,
    )


def front() -> dict[str, Any]:
    def interval(value: float, half: float) -> dict[str, float]:
        return {"value": value, "low": value - half, "high": value + half}

    members = [
        {
            "policy": {"schema": "autoprune/policy/1", "name": f"p{i}", "stages": []},
            "budget": fraction,
            "search": {"prefill_flops": 4e9 * fraction, "exact_match": 0.9},
            "holdout": {"exact_match": interval(accuracy, 0.011), "prefill_flops": interval(4e9 * fraction, 0.0)},
            "constraints": {CONSTRAINT: state},
            "selected": i == 1,
            "published": None,
        }
        for i, (fraction, accuracy, state) in enumerate(
            [(0.2, 0.80, "violated"), (0.4, 0.91, "certified"), (0.7, 0.90, "undecided")]
        )
    ]
    baseline = {"holdout": {"exact_match": interval(0.92, 0.012), "prefill_flops": interval(4e9, 0.0)}}
    counts = {"complete": 5, "failed": 1, "running": 0}
    return {"study": "demo", "baseline": baseline, "members": members, "trials": counts}


@pytest.fixture
def outbox() -> FakeOutbox:
    """baseline, a reference, four trials (one failed), the front: eight rows."""
    box = FakeOutbox()
    box.add("study", {})
    box.settle(trial(0, 1.0, origin="baseline"))
    box.settle(trial(1, 0.5, origin="reference"))
    box.settle(trial(2, 0.3))
    box.settle(trial(3, 0.6, state="failed"))
    box.settle(trial(4, 0.4))
    box.settle(trial(5, 0.8))
    box.add("front", front())
    return box


@pytest.fixture
def study() -> StudyInfo:
    return StudyInfo(
        study_id="demo-0123abcd",
        name="demo",
        spec_text="name: demo\n# ä comment\n",
        resolved={"name": "demo", "search": {"trials": 5}},
        digests={"model": "a" * 64, "calibration": "b" * 64},
        objectives=OBJECTIVES,
        constraints=(parse_constraint(CONSTRAINT),),
        registered_model="demo-policy",
    )


@pytest.fixture(scope="session")
def first_contact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder in which a fresh process made an MLflow database at `x/mlflow.db`, and what that process said.

    Making one takes seconds, so every test works on a copy of this one.
    """
    folder = tmp_path_factory.mktemp("mlflow")
    code = f"from autoprune.registry.tracking import check_reachable; check_reachable('sqlite:///{folder}/x/mlflow.db')"
    return folder, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True)


@pytest.fixture
def uri(first_contact: tuple[Path, Any], tmp_path: Path) -> str:
    home = tmp_path / ".autoprune"
    home.mkdir()
    shutil.copy(first_contact[0] / "x" / "mlflow.db", home / "mlflow.db")
    return f"sqlite:///{home / 'mlflow.db'}"


@pytest.fixture
def refusing() -> str:
    """The URI of a server that isn't there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """The URI of a server that takes the call and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def saved_policy(tmp_path: Path) -> Path:
    folder = tmp_path / "policy"
    published().save_pretrained(folder)
    return folder
