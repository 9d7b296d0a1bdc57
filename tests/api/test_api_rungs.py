"""Rungs and screens of a spec as the driver climbs them, and a search that does, on a real model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autoprune import check
from autoprune.api import search, state
from autoprune.api.rungs import rungs
from autoprune.api.study import Prepared
from autoprune.ports import Progress
from autoprune.store import open_store

ROOT = Path(__file__).resolve().parents[2]
SPEC = f"""\
schema: autoprune/spec/1
name: climbing
model: {{path: {ROOT / "examples" / "reference_vlm" / "checkpoint"}}}
calibration: {{records: records.jsonl, images: images, search: 2, holdout: 2, seed: 1}}
search_space:
  budget: {{float: [0.1, 0.9]}}
  params: {{l1: {{layer: [1, 3/4]}}}}
  stages: [{{at: "llm:$l1", keep: solve, score: {{choice: [feature_norm, random]}}}}]
objectives: [minimize answer_nll, minimize prefill_flops]
constraints: [kv_bytes <= 0.9 * baseline]
search: {{trials: 5, executor: inline, strategy: random, explain: false}}
"""
LOOKS = "search: {rungs: [1/2, 0.9, 0.6], screen: {measure: information_flow, records: 1, drop: 0.9}, "


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "tests" / "data" / "images", tmp_path / "images")
    shutil.copy(ROOT / "tests" / "data" / "records.jsonl", tmp_path / "records.jsonl")
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace("search: {trials", LOOKS + "trials"))
    return path


def test_what_is_climbed(spec: Path) -> None:
    screen, rung = rungs(check.check(spec))
    assert (screen.state, screen.limit, screen.drop) == ("screened", 1, 0.9)
    assert screen.measures == ("information_flow", "prefill_flops", "kv_bytes")
    assert [o.text for o in screen.objectives] == ["minimize information_flow", "minimize prefill_flops"]
    assert [c.text for c in screen.constraints] == ["kv_bytes <= 0.9 * baseline"]
    assert (rung.state, rung.limit) == ("partial", 1), "a rung of all records is none"
    assert "information_flow" not in rung.measures


def test_it_is_another_study(spec: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.yaml"
    plain.write_text(SPEC)
    assert rungs(check.check(plain)) == ()
    assert Prepared(check.check(plain)).study_id != Prepared(check.check(spec)).study_id


class Messages:
    """What is said while it runs."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def update(self, progress: Progress) -> None:
        self.lines.append(progress.message)


def test_a_search_climbs(spec: Path) -> None:
    seen = Messages()
    result = search(spec, observer=seen)
    assert any(line.startswith("memory: a worker keeps at most") for line in seen.lines)
    (took,) = (note for note in result.notes if note.startswith("memory of the worker"))
    assert " resumed" in took
    assert "pixels" in took
    with open_store(state.store_url(check.check(spec).loaded)) as store:
        trials = store.study(result.study_id).trials()
    states = [(t.state, t.reason.split()[0] if t.reason else "") for t in trials]
    assert ("screened", "promoted") in states
    assert ("partial", "promoted") in states
    screened = [t for t in trials if t.state == "screened"]
    assert all(set(t.values) == {"information_flow", "prefill_flops", "kv_bytes"} for t in screened)
    assert all("information_flow" not in member["search"] for member in result.front["members"])
    spent = sum(t.share for t in trials if t.origin != "baseline" and not t.cached and t.state != "infeasible")
    assert 4 < spent <= 5
    for digest in {t.digest for t in trials if t.state == "complete" and t.origin != "baseline"}:
        paid = [t.share for t in trials if t.digest == digest and not t.cached]
        assert sum(paid) == 1, "the screen, the rung and the rest are one evaluation"
