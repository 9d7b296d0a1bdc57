"""`layers: auto` on a real model: what is measured, narrowed, told and found again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autoprune import check
from autoprune.api import search, state
from autoprune.api.study import Prepared
from autoprune.errors import BadInput
from autoprune.executors.inline import InlineExecutor
from autoprune.ports import EvalRequest, Measurement
from autoprune.search.placement import narrowed
from autoprune.store import open_store

ROOT = Path(__file__).resolve().parents[2]
SPEC = f"""\
schema: autoprune/spec/1
name: placed
model: {{path: {ROOT / "examples" / "reference_vlm" / "checkpoint"}}}
calibration: {{records: records.jsonl, images: images, search: 2, holdout: 2, seed: 1}}
search_space:
  budget: {{float: [0.1, 0.9]}}
  params: {{l1: {{layer: [1, 5]}}, l2: {{layer: [2, 7]}}}}
  order: [l1 < l2]
  stages:
    - {{at: "llm:$l1", keep: {{of_current: {{float: [0.8, 1]}}}}, score: feature_norm}}
    - {{at: "llm:$l2", keep: solve, score: feature_norm}}
objectives: [minimize answer_nll, minimize prefill_flops]
search: {{layers: auto, trials: 4, executor: inline, strategy: random, explain: false}}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "tests" / "data" / "images", tmp_path / "images")
    shutil.copy(ROOT / "tests" / "data" / "records.jsonl", tmp_path / "records.jsonl")
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def test_a_search_places_its_layers(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[EvalRequest] = []
    submit = InlineExecutor.submit
    monkeypatch.setattr(InlineExecutor, "submit", lambda self, request: (asked.append(request), submit(self, request)))
    result = search(spec)
    study = Prepared(check.check(spec))
    plan = study.plan(None, None)
    assert plan.profiling is not None
    assert plan.profiling.labels[0] == "similarity at layer 0"
    assert len(plan.profiling.labels) == 2 * study.geometry.depth
    looked = [r for r in asked if r.measures == plan.profiling.labels]
    assert [(r.policy, r.split, r.limit) for r in looked] == [(None, "search", 2)]

    with open_store(state.store_url(check.check(spec).loaded)) as store:
        log = store.study(result.study_id)
        stored = log.find(study.context.key(looked[0]))
        trials = [t for t in log.trials() if t.origin == "trial" and t.policy]
    assert isinstance(stored, Measurement)
    narrow, said = narrowed(plan, lambda records, labels: stored)
    assert set(said) <= set(result.front["explanation"])
    places = narrow.proposals.places  # type: ignore[attr-defined]
    assert 2 <= len(places["l1"]) < 5
    assert 2 <= len(places["l2"]) < 6
    assert trials
    for trial in trials:
        first, second = (int(s["at"].removeprefix("llm:")) for s in trial.policy["stages"])  # type: ignore[index]
        assert first < second
        assert first in places["l1"]
        assert second in places["l2"] or not any(first < place for place in places["l2"])

    asked.clear()
    spec.write_text(SPEC.replace("trials: 4", "trials: 5"))
    assert search(spec).study_id == result.study_id
    assert not [r for r in asked if r.policy is None and r.split == "search"], "the profile was stored"


def test_it_is_another_study_only_where_it_is_asked_for(spec: Path, tmp_path: Path) -> None:
    plain, written = tmp_path / "plain.yaml", tmp_path / "written.yaml"
    plain.write_text(SPEC.replace("layers: auto, ", ""))
    written.write_text(SPEC.replace("layers: auto, ", "layers: all, "))
    ids = [Prepared(check.check(path)).study_id for path in (spec, plain, written)]
    assert ids[0] != ids[1] == ids[2]
    assert Prepared(check.check(plain)).plan(None, None).profiling is None


def test_bad_input_is_positioned(spec: Path) -> None:
    spec.write_text(SPEC.replace("layers: auto", "layers: some"))
    with pytest.raises(BadInput, match=r"spec.yaml:13:18: search.layers.*'some'"):
        check.check(spec)
    spec.write_text(SPEC.replace("minimize answer_nll", "minimize layer_profile"))
    with pytest.raises(BadInput, match="layer_profile describes the unpruned model; known: answer_nll"):
        check.check(spec)


def test_a_space_without_layers_has_nothing_to_narrow(spec: Path) -> None:
    head, tail = SPEC.split("  params:")[0], SPEC.split("score: feature_norm}\n")[-1]
    spec.write_text(f'{head}  stages: [{{at: "llm:2", keep: solve, score: feature_norm}}]\n{tail}')
    with pytest.raises(BadInput, match=r"spec.yaml:9:18: search.layers: auto has nothing to narrow"):
        check.check(spec)
