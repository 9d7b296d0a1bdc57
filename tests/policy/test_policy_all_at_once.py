# ruff: noqa: E501 - tables with one case a line
"""Every mistake of a stage at once: what does not read well hides nothing beside it, and nothing follows from it."""

from __future__ import annotations

import pytest
from policy_fakes import geometry

from autoprune.document.yaml import parse
from autoprune.errors import BadInput
from autoprune.policy.document import Policy
from autoprune.policy.space import Space
from autoprune.pruning.lookup import RegisteredParts

HEAD = "schema: autoprune/policy/1\nstages:\n"
SPACE = "schema: autoprune/space/1\n"


def found_in(text: str, depth: int | None = None) -> list[str]:
    bound = None if depth is None else geometry(depth)
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(HEAD + text), RegisteredParts(), bound)
    assert all(p.line >= 3 and p.column > 1 for p in caught.value.problems)
    return [p.path.removeprefix("stages") for p in caught.value.problems]


@pytest.mark.parametrize(
    ("stage", "wrong"),
    [
        (
            "{at: 'llm:4', keep: 1/4, score: {llm_attention: {fro: last}}, select: {far: {space: hiden}}, group: {windw: 1/4}, protect: newline, positions: compat}",
            ["[0].score.llm_attention.fro", "[0].select.far.space", "[0].group.windw", "[0].protect", "[0].positions"],
        ),
        ("{at: projector, keep: 1.5, score: random, select: {pivott: {}}}", ["[0].keep", "[0].select"]),
        (
            "{at: projector, keep: 1/2, score: random, protekt: newlines, merge: {nearest: {space: projektet}}}",
            ["[0].protekt", "[0].merge.nearest.space"],
        ),
        ("{at: lm:4, keep: 1/2, score: mien, merge: nearst}", ["[0].at", "[0].score", "[0].merge"]),
        ("{at: llm:4, keep: {rule: outlyer, most: 3}, score: random}", ["[0].keep.rule", "[0].keep.most"]),
        ("{at: llm:4, keep: {rule: outlyer, fit: {toknes: 3}}, score: random}", ["[0].keep.rule", "[0].keep.fit.toknes"]),
        ("{at: llm:4, keep: 1/2, score: {mix: {weights: {randm: 1, stride: -1}, normalise: rnk}}}", ["[0].score.mix.weights.randm", "[0].score.mix.weights.stride", "[0].score.mix.normalise"]),
        ("{at: llm:4, keep: 1/2, pick: [{shar: 1/2, score: randm}, {score: random, select: tpo}]}", ["[0].pick[0]", "[0].pick[0].shar", "[0].pick[0].score", "[0].pick[1].select"]),
        ("{at: llm:4, keep: 1/2, selct: top, select: {dpp: {tua: 1}}}", ["[0].selct", "[0].select.dpp.tua"]),
        ("{at: llm:4, keep: 1/2, score: 3, group: {tile: {split: proportional}}, merge: nearst}", ["[0].score", "[0].merge"]),
        ("{at: llm:4, keep: 1/2, protect: newline}", ["[0]", "[0].protect"]),
    ],
)  # fmt: skip
def test_a_mistake_in_a_stage_hides_none_in_it(stage: str, wrong: list[str]) -> None:
    assert found_in(f"  - {stage}\n") == wrong


@pytest.mark.parametrize(
    ("stages", "wrong"),
    [
        (["{along: [2, 40], score: random}"], ["[0].curve", "[0].along[1]"]),
        (["{along: [2, 40], curve: {linaer: {}}, score: randm}"], ["[0].along[1]", "[0].curve.linaer", "[0].score"]),
        (["{at: llm:40, keep: 1/2, score: {llm_attention: {from: lst}}}"], ["[0].at", "[0].score.llm_attention.from"]),
        (
            ["{at: llm:2, keep: {to_budget: 1/2}, score: randm}", "{at: llm:40, keep: 0.1, score: random, restore: parked}"],
            ["[0].keep.to_budget", "[0].score", "[1].at", "[1].restore"],
        ),
        (["{at: llm:9, keep: 0.2, score: randm}", "{at: llm:4, keep: 0.3, score: random}"], ["[0].score", "[1].at", "[1].keep"]),
        # nothing follows from a mistake: not where a stage stands, how much it keeps, or what it parks
        (["{at: llm:9, keep: 0.2, score: random}", "{at: lm:4, keep: 0.3, score: random}"], ["[1].at"]),
        (["{at: llm:2, keep: 0.2, score: random, merge: prak}", "{at: llm:4, keep: 0.3, score: random, restore: parked}"], ["[0].merge"]),
        (["{at: llm:2, keep: 0.2, score: random, merge: park}", "{at: llm:4, keep: 0.3, score: random, restor: parked}"], ["[1].restor"]),
        (["{at: llm:2, keep: 2, score: random}", "{at: llm:4, keep: 0.3, score: random}"], ["[0].keep"]),
    ],
)  # fmt: skip
def test_a_mistake_hides_none_in_the_order_of_stages_and_brings_none_along(stages: list[str], wrong: list[str]) -> None:
    assert found_in("".join(f"  - {stage}\n" for stage in stages), depth=32) == wrong


def test_a_hole_that_cannot_be_filled_hides_nothing_in_its_stage() -> None:
    text = """\
budget: 1/3
params:
  l1: {layer: [2, 1/3]}
  bad: {choice: [top, {nms: {tau: $gone}}]}
criteria: {named: {llm_attention: {layer: $lost, from: lst}}}
stages:
  - {at: 'llm:$l1', keep: {to_budget: 1/4}, score: named, select: $bad, merge: {nearest: {space: hiden}}}
  - {at: 'llm:$l2', keep: solve, score: mien, protect: newline}
  - {at: llm:20, keep: 0.5, score: random, restore: parked}
"""
    with pytest.raises(BadInput) as caught:
        Space.from_source(parse(SPACE + text), RegisteredParts(), geometry(32))
    assert [p.path for p in caught.value.problems] == [
        "params.bad.choice[1].nms.tau",
        "criteria.named.llm_attention.layer",
        "criteria.named.llm_attention.from",
        "stages[0].merge.nearest.space",
        "stages[1].at",
        "stages[1].keep.to_budget",
        "stages[1].score",
        "stages[1].protect",
        "stages[2].restore",
    ]


def test_an_empty_range_of_layers_hides_nothing_in_the_stages() -> None:
    text = """\
params: {l1: {layer: [20, 1/3]}}
stages:
  - {at: 'llm:$l1', keep: 1/2, score: randm}
  - {at: llm:40, keep: 1/3, score: random}
"""
    with pytest.raises(BadInput) as caught:
        Space.from_source(parse(SPACE + text), RegisteredParts(), geometry(32))
    assert [p.path for p in caught.value.problems] == ["params.l1.layer", "stages[0].score", "stages[1].at"]


@pytest.mark.parametrize(
    ("stage", "shown"),
    [
        ("{at: llm:4, keep: 1/2, score: random, select: {nms: {tau: 2}}}", "not 2"),
        ("{at: llm:4, keep: 1/2, score: random, select: {nms: {tau: 2.5}}}", "not 2.5"),
        ("{at: llm:4, keep: 1/2, score: {llm_attention: {temperature: 0}}}", "not 0"),
        ("{at: llm:4, keep: {rule: {gate: {below: 2}}}, score: random}", "not 2"),
    ],
)
def test_a_number_is_shown_as_it_was_written(stage: str, shown: str) -> None:
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(f"{HEAD}  - {stage}\n"), RegisteredParts())
    assert caught.value.problems[0].message.endswith(shown)


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("{at: llm:4, keep: 1/2, score: random, select: threshold}", "it is a rule for how many stay: `keep: {rule: threshold}`"),
        ("{at: llm:4, keep: 1/2, score: random, select: pool, group: {row: {split: whole}}}", "split whole needs a selector that reads scores; pool reads none"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_the_reason(stage: str, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(f"{HEAD}  - {stage}\n"), RegisteredParts())
    assert [says in p.message for p in caught.value.problems] == [True]
