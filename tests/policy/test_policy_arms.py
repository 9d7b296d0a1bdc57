# ruff: noqa: E501 - tables with one case a line
"""Arms of a space document: what each has of what is shared, and where a mistake in one stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from policy_fakes import PARTS, geometry

from autoprune.document.yaml import parse, read
from autoprune.errors import BadInput, Located
from autoprune.policy.arms import arms
from autoprune.policy.space import Space
from autoprune.pruning.lookup import RegisteredParts

ROOT = Path(__file__).resolve().parents[2]
TEXT = """\
schema: autoprune/space/1
name: where
budget: {float: [0.1, 0.6]}
params:
  l: {layer: [1, 3/4]}
  f: {float: [0.2, 0.9]}
criteria:
  asked: {llm_attention: {from: last}}
arms:
  before:
    stages: [{at: projector, keep: $f, score: feature_norm}]
  inside:
    stages: [{at: "llm:$l", keep: solve, score: asked}]
  narrow:
    params: {l: {layer: [4, 5]}}
    stages: [{at: "llm:$l", keep: solve, score: asked}]
"""


def spaces(text: str) -> tuple[dict[str, Space], list[Located]]:
    found: list[Located] = []
    made = {}
    for name, source in arms(parse(text), found).items():
        try:
            made[name] = Space.from_source(source, PARTS, geometry())
        except BadInput as error:
            found.extend(error.problems)
    return made, sorted(set(found), key=lambda p: (p.line, p.column))


def test_an_arm_has_what_it_uses_and_its_own_wins() -> None:
    made, found = spaces(TEXT)
    assert found == []
    names = {arm: [p.name for p in space.bind(geometry()).parameters] for arm, space in made.items()}
    assert names == {"before": ["f"], "inside": ["budget", "l"], "narrow": ["budget", "l"]}
    assert made["before"].budget is None
    (_, layer) = made["narrow"].bind(geometry()).parameters
    assert (layer.low, layer.high) == (4, 5)
    assert [space.name for space in made.values()] == ["where-before", "where-inside", "where-narrow"]


@pytest.mark.parametrize("depth", [8, 32])
def test_the_shipped_ones_make_policies(depth: int) -> None:
    found: list[Located] = []
    model = geometry(depth)
    for source in arms(read(ROOT / "search_spaces" / "arms.yaml"), found).values():
        bound = Space.from_source(source, RegisteredParts(), model).bind(model)
        values = {p.name: p.choices[-1] if p.kind == "choice" else p.middle for p in bound.parameters}
        assert bound.fill(values).stages
    assert found == []


def test_without_arms_there_is_one_without_a_name() -> None:
    found: list[Located] = []
    assert list(arms(read(ROOT / "search_spaces" / "mixed.yaml"), found)) == [""]
    assert found == []


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "path", "says"),
    [
        ("keep: $f", "keep: 2", 11, 36, "arms.before.stages[0].keep", "2"),
        ("$l\", keep: solve, score: asked}]\n  narrow", "$l\", keep: solve, score: askt}]\n  narrow", 13, 49, "arms.inside.stages[0].score", "askt"),
        ("layer: [1, 3/4]", "layer: [1, 99]", 5, 18, "params.l.layer[1]", "beyond the model"),
        ("layer: [4, 5]", "layer: [4, 99]", 15, 29, "arms.narrow.params.l.layer[1]", "beyond the model"),
        ("keep: $f", "keep: 1/2", 6, 3, "params.f", "used by no arm"),
        ("  narrow:", "  na rrow:", 14, 3, "arms.na rrow", "not a name"),
        ("arms:", "order: []\narms:", 9, 1, "order", "unknown key"),
        ("    stages: [{at: projector, keep: $f, score: feature_norm}]", "    params: {f: {float: [0, 1]}}", 10, 3, "arms.before.stages", "missing"),
    ],
)  # fmt: skip
def test_a_mistake_stands_where_it_was_written(
    old: str, new: str, line: int, column: int, path: str, says: str
) -> None:
    assert old in TEXT
    _, found = spaces(TEXT.replace(old, new))
    match = [p for p in found if says in p.message and p.path == path]
    assert match, found
    assert (match[0].line, match[0].column) == (line, column)


def test_mistakes_of_all_arms_come_together() -> None:
    wrong = TEXT.replace("keep: $f", "keep: 2").replace("layer: [4, 5]", "layer: [4, 99]")
    _, found = spaces(wrong)
    assert {p.line for p in found} == {6, 11, 15}


@pytest.mark.parametrize("written", ["arms: []", "arms: {one: {stages: []}}", "arms: 3"])
def test_arms_are_several(written: str) -> None:
    _, found = spaces(f"schema: autoprune/space/1\n{written}\n")
    assert [(p.line, p.path) for p in found] == [(2, "arms")]
    assert "2 to 12 names" in found[0].message
