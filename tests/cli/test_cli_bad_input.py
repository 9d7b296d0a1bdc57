"""Bad input: one clear, positioned message each, all at once, exit code 2, nothing half written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bad_input_support import edit, errors
from conftest_cli import cli


def test_the_base_case_is_good(case: Path) -> None:
    done = cli("validate", str(case / "spec.yaml"), "--json")
    assert done.code == 0, done.out
    assert done.json["ok"] is True
    assert done.json["errors"] == []


SPEC_CASES = [
    ("search: 2", "serach: 2", 7, 3, "did you mean 'search'"),
    ("search: 2", "search: many", 7, 11, "many"),
    ("name: case", "name: [1]", 2, 7, "string"),
    ("exact_match >=", "exact_mach >=", 11, 15, "did you mean 'exact_match'"),
    ("0.97 * baseline", "0.97 * baselin", 11, 37, "did you mean 'baseline'"),
    ("minimize prefill_flops", "minimize prefill_flop", 10, 45, "did you mean 'prefill_flops'"),
    ("minimize prefill_flops", "maximize prefill_flops", 10, 36, "minimize prefill_flops"),
    ("maximize exact_match", "{minimize: {information_flow: {distence: l2}}}", 10, 45, "distance"),
    ("search_space: space.yaml", "search_space: fastvv", 9, 15, "did you mean 'fastv'"),
    ("records: records.jsonl", "records: nothing.jsonl", 5, 12, "no such file"),
    ("images: images", "images: pictures", 6, 11, "no such folder"),
    ("search: 2", "search: 200", 7, 11, "search 200 + holdout 2 records are asked for, 4 are there"),
    ("search: 2", "stratify_by: typ\n  search: 2", 7, 16, "did you mean 'type'"),
    (">= 0.97 * baseline", ">= 97", 11, 15, "exact_match lies between 0 and 1"),
    ("constraints: [", "search: {screen: {measure: budget, records: 1}}\nconstraints: [", 11, 28, "budget is a cost"),
    (
        "constraints: [",
        "search: {screen: {measure: loyalti, records: 1}}\nconstraints: [",
        11,
        28,
        "did you mean 'loyalty'",
    ),
    (
        "constraints: [",
        "search: {screen: {measure: loyalty, records: 2}}\nconstraints: [",
        11,
        46,
        "fewer than the 2 records",
    ),
    ("constraints: [", "search: {rungs: [1/2, 3/2]}\nconstraints: [", 11, 23, "above 0 and below 1"),
    ("maximize exact_match", "{minimize: {information_flow: {layers: [1/2, 99]}}}", 10, 53, "layer 99 is not among"),
]


@pytest.mark.parametrize(("old", "new", "line", "column", "says"), SPEC_CASES, ids=[c[1] for c in SPEC_CASES])
def test_spec_mistakes(case: Path, old: str, new: str, line: int, column: int, says: str) -> None:
    edit(case, "spec.yaml", old, new)
    found = errors(case)
    match = [e for e in found if says in e["message"]]
    assert match, found
    assert (match[0]["line"], match[0]["column"]) == (line, column)
    assert match[0]["file"].endswith("spec.yaml")


SPACE_CASES = [
    ("llm_attention", "llm_atention", 7, "did you mean 'llm_attention'"),
    ("from: last", "form: last", 7, "did you mean 'from'"),
    ("{layer: [2, 1/3]}", "{layer: [2, 40]}", 5, "beyond the model"),
    ("{layer: [2, 1/3]}", "{layer: [6, 3]}", 5, "empty"),
    (
        'params:\n  l1: {layer: [2, 1/3]}\nstages:\n  - {at: "llm:$l1"',
        "stages:\n  - {at: projector",
        5,
        "is legal at llm, not at projector",
    ),
    (
        'params:\n  l1: {layer: [2, 1/3]}\nstages:\n  - {at: "llm:$l1"',
        "stages:\n  - {at: llm:0",
        5,
        "`layer: prev` at llm:0",
    ),
    ("stages:", "stages:\n  - {at: llm:1, keep: solve, score: feature_norm}", 8, "solve"),
    ("score: {", "group: {windows: 1/4}, score: {", 7, "did you mean 'window'"),
    ("budget: {float: [0.1, 0.6]}", "budget: {float: [0.6, 0.1]}", 3, "0.6"),
    ("params:", "arms: []\nparams:", 4, "arms are a mapping from 2 to 12 names"),
    ("stages:", "warm_start: [fastv, fastvv]\nstages:", 6, "unknown policy 'fastvv'"),
]


@pytest.mark.parametrize(("old", "new", "line", "says"), SPACE_CASES, ids=[c[3] for c in SPACE_CASES])
def test_space_mistakes(case: Path, old: str, new: str, line: int, says: str) -> None:
    edit(case, "space.yaml", old, new)
    found = errors(case)
    match = [e for e in found if says in e["message"]]
    assert match, found
    assert match[0]["line"] == line
    assert match[0]["file"].endswith("space.yaml")


def test_an_inline_space_is_positioned_in_the_spec(case: Path) -> None:
    inline = "search_space:\n  schema: autoprune/space/1\n  stages: [{at: llm:2, keep: 1/2, score: nonsense}]"
    edit(case, "spec.yaml", "search_space: space.yaml", inline)
    found = errors(case)
    assert found[0]["line"] == 11
    assert found[0]["path"].startswith("search_space.stages[0]")


def test_all_mistakes_at_once(case: Path) -> None:
    edit(case, "spec.yaml", "exact_match >=", "exact_mach >=")
    edit(case, "spec.yaml", "minimize prefill_flops", "minimize nothing")
    edit(case, "space.yaml", "from: last", "from: lats")
    (case / "images" / "1.png").unlink()
    files = {Path(e["file"]).name for e in errors(case)}
    assert files == {"spec.yaml", "space.yaml", "records.jsonl"}


HIDDEN = [  # (what is wrong, what it must not hide or bring along: (key path, words) of every message)
    (
        [
            ("search: 2", "search: many"),
            ("minimize prefill_flops", "minimise prefill_flops"),
            ("* baseline", "* basline"),
        ],
        {
            ("calibration.search", "many"),
            ("objectives[1]", "did you mean 'minimize'"),
            ("constraints[0]", "did you mean 'baseline'"),
            ("stages[0].score.llm_attention.form", "did you mean 'from'"),
        },
    ),
    (
        [("space.yaml", "two_stage_mixd"), ("* baseline", "* basline"), ("prefill_flops", "prefil_flops")],
        {
            ("search_space", "did you mean 'two_stage_mixed'"),
            ("objectives[1]", "did you mean 'prefill_flops'"),
            ("constraints[0]", "did you mean 'baseline'"),
        },
    ),
    (
        [("exact_match >= 0.97 * baseline", "exact_mach >= 0.97 * basline"), ("objectives: [", "objectives: [3, ")],
        {
            ("constraints[0]", "did you mean 'exact_match'"),
            ("constraints[0]", "did you mean 'baseline'"),
            ("objectives[0]", "valid string"),
            ("stages[0].score.llm_attention.form", "did you mean 'from'"),
        },
    ),
    (
        [("  search: 2", "  serach: 2"), ("model: {path:", "model: {pth:")],
        {
            ("calibration.serach", "did you mean 'search'"),
            ("model.pth", "did you mean 'path'"),
            ("stages[0].score.llm_attention.form", "did you mean 'from'"),
        },
    ),
]


@pytest.mark.parametrize(("edits", "expected"), HIDDEN, ids=["types", "names", "goals", "keys"])
def test_a_mistake_hides_no_other_and_brings_none_along(
    case: Path, edits: list[tuple[str, str]], expected: set[tuple[str, str]]
) -> None:
    for old, new in edits:
        edit(case, "spec.yaml", old, new)
    edit(case, "space.yaml", "from: last", "form: last")
    found = errors(case)
    for path, words in expected:
        assert [e for e in found if e["path"] == path and words in e["message"]], (path, words, found)
    assert len(found) == len(expected), [e["message"] for e in found]


def test_missing_answers_are_one_mistake(case: Path) -> None:
    lines = [json.loads(line) for line in (case / "records.jsonl").read_text().splitlines()]
    del lines[1]["answer"]
    (case / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (error,) = errors(case)
    assert (error["line"], error["path"]) == (2, "answer")
    assert error["message"] == "missing; exact_match compares with it"


def test_missing_image_names_the_record(case: Path) -> None:
    (case / "images" / "1.png").unlink()
    found = errors(case)
    assert {e["line"] for e in found} == {2, 4}
    assert "no such image" in found[0]["message"]


def test_empty_calibration_set(case: Path) -> None:
    (case / "records.jsonl").write_text("")
    assert "empty" in errors(case)[0]["message"]


def test_a_measure_that_needs_answers_the_data_lacks(case: Path) -> None:
    lines = [json.loads(line) for line in (case / "records.jsonl").read_text().splitlines()]
    without = [{k: v for k, v in line.items() if k != "answer"} for line in lines]
    (case / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in without))
    messages = " ".join(e["message"] for e in errors(case))
    assert "exact_match" in messages
    assert "answer" in messages


TYPES = [
    ("search: 2", "search: true", 7, 11),
    ("holdout: 2", "holdout: true", 8, 12),
    ("name: case", "name: case\nsearch: {seed: '3'}", 3, 16),
]


@pytest.mark.parametrize(("old", "new", "line", "column"), TYPES)
def test_types_are_not_guessed(case: Path, old: str, new: str, line: int, column: int) -> None:
    edit(case, "spec.yaml", old, new)
    assert (line, column) in [(e["line"], e["column"]) for e in errors(case)]
