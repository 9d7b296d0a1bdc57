"""Which changes of a spec continue a study, and which start another one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autoprune import check
from autoprune.api.study import Prepared

ROOT = Path(__file__).resolve().parents[2]
SPEC = f"""\
schema: autoprune/spec/1
name: case
model: {{path: {ROOT / "examples" / "reference_vlm" / "checkpoint"}}}
calibration: {{records: records.jsonl, images: images, search: 2, holdout: 2, seed: 1}}
search_space: space.yaml
objectives: [maximize exact_match, minimize prefill_flops]
constraints: [exact_match >= 0.97 * baseline]
search: {{trials: 8, seed: 3, executor: inline}}
certify: {{confidence: 0.95}}
output: {{register: case}}
"""
SPACE = """\
schema: autoprune/space/1
name: case
budget: {float: [0.1, 0.6]}
params:
  l1: {layer: [2, 1/3]}
stages:
  - {at: "llm:$l1", keep: solve, score: {llm_attention: {from: last}}}
warm_start: [mine]
"""
MINE = """\
schema: autoprune/policy/1
name: mine
stages: [{at: llm:1/2, keep: 1/4, score: {feature_norm: {space: keys}}}]
"""


@pytest.fixture
def case(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "tests" / "data" / "images", tmp_path / "images")
    shutil.copy(ROOT / "tests" / "data" / "records.jsonl", tmp_path / "records.jsonl")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "mine.yaml").write_text(MINE)
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


def study_id(folder: Path) -> str:
    return Prepared(check.check(folder / "spec.yaml")).study_id


def changed(folder: Path, name: str, old: str, new: str) -> str:
    """The study's id after one edit, which is taken back."""
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    made = study_id(folder)
    path.write_text(text)
    return made


CONTINUE = [
    ("spec.yaml", "trials: 8", "trials: 64"),
    ("spec.yaml", "trials: 8", "trials: 8, time: 3h"),
    ("spec.yaml", "executor: inline", "executor: {ray: {workers: 2}}"),
    ("spec.yaml", "executor: inline", "executor: inline, evaluation_timeout: 60"),
    ("spec.yaml", "register: case", "register: other, select: minimize kv_bytes"),
    ("spec.yaml", "objectives:", "retune: {margin: 1 point}\nobjectives:"),
    ("spec.yaml", "search_space:", "# a remark\nsearch_space:"),
    ("space.yaml", "name: case", "name: renamed"),
]


@pytest.mark.parametrize(("name", "old", "new"), CONTINUE, ids=[c[2] for c in CONTINUE])
def test_these_continue_the_study(case: Path, name: str, old: str, new: str) -> None:
    assert changed(case, name, old, new) == study_id(case)


ANOTHER = [
    ("spec.yaml", "name: case", "name: other"),
    ("spec.yaml", "0.97 * baseline", "0.96 * baseline"),
    ("spec.yaml", "maximize exact_match", "minimize answer_nll"),
    ("spec.yaml", "search: 2", "search: 1"),
    ("spec.yaml", "holdout: 2, seed: 1", "holdout: 2, seed: 2"),
    ("spec.yaml", "checkpoint}", "checkpoint, dtype: bfloat16}"),
    ("spec.yaml", "trials: 8, seed: 3", "trials: 8, seed: 4"),
    ("spec.yaml", "trials: 8", "trials: 8, strategy: random"),
    ("spec.yaml", "confidence: 0.95", "confidence: 0.99"),
    ("space.yaml", "layer: [2, 1/3]", "layer: [1, 1/3]"),
    ("space.yaml", "from: last", "from: text"),
    ("space.yaml", "[mine]", "[mine, fastv]"),
    ("policies/mine.yaml", "space: keys", "space: projected"),
    ("records.jsonl", '"answer": "', '"answer": "not '),
]


@pytest.mark.parametrize(("name", "old", "new"), ANOTHER, ids=[f"{c[0]}: {c[2]}" for c in ANOTHER])
def test_these_make_another_study(case: Path, name: str, old: str, new: str) -> None:
    assert changed(case, name, old, new) != study_id(case)


def test_a_holdout_that_is_too_small_says_how_many_images_it_takes(case: Path) -> None:
    """Assumed: pruned and unpruned answers differ on twice the share of records that may be lost."""
    from autoprune.search.sizing import required_images

    said = Prepared(check.check(case / "spec.yaml")).holdout_remark()
    needed = required_images(0.97, 2 * (1 - 0.97), 0.95)
    assert said is not None
    assert "the holdout has 1 image; certifying 'exact_match >= 0.97 * baseline'" in said
    assert f"needs about {needed}" in said
    spec = case / "spec.yaml"
    spec.write_text(spec.read_text().replace("0.97 * baseline", "baseline - 3 points"))
    same = Prepared(check.check(spec)).holdout_remark()
    assert same is not None
    assert f"needs about {needed}" in same, "of a baseline of 1, three points are three per cent"
    spec.write_text(spec.read_text().replace("exact_match >= baseline - 3 points", "budget <= 0.5"))
    assert Prepared(check.check(spec)).holdout_remark() is None, "costs are exact on any holdout"


def test_what_measures_take_is_known_to_the_plan(case: Path) -> None:
    """So that a look at part of the records makes no pass that nobody reads, and times nothing."""
    spec = case / "spec.yaml"
    goals = "maximize exact_match, minimize prefill_latency, maximize loyalty"
    spec.write_text(spec.read_text().replace("maximize exact_match, minimize prefill_flops", goals))
    plan = Prepared(check.check(spec)).plan(None, None)
    assert plan.passes["exact_match"] == "answers"
    assert len(set(plan.passes.values())) == 3
    left_out = set(plan.measures) - set(plan.beside(("exact_match",)))
    assert left_out == {"loyalty", "prefill_latency"}
    assert set(plan.beside(("loyalty",))) >= {"loyalty", "prefill_flops", "budget"}
    assert "exact_match" not in plan.beside(("loyalty",))
    assert plan.beside(None) == plan.measures
