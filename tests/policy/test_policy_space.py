# ruff: noqa: E501 - tables with one case a line
from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from policy_fakes import PARTS, geometry

from autoprune.document.yaml import parse, read
from autoprune.errors import BadInput
from autoprune.policy import catalog
from autoprune.policy.budget import Infeasible
from autoprune.policy.canonical import digest, resolve
from autoprune.policy.document import Policy
from autoprune.policy.parameters import from_simplex, to_simplex
from autoprune.policy.scale import at_budget
from autoprune.policy.space import BoundSpace, Parameter, Space

MIXED = """\
schema: autoprune/space/1
name: mixed
budget: {float: [0.08, 0.60]}
params:
  l1: {layer: [2, 1/3]}
  l2: {layer: [1/3, 3/4]}
  front: {float: [0.2, 1.0]}
  mix: {weights: [cls, last, norm]}
  how: {choice: [top, stride, far, {nms: {tau: {float: [0.7, 0.95]}}}]}
order: [l1 < l2]
criteria: {cls: {encoder_attention: {layer: -2, from: cls}}, last: {llm_attention: {from: last}}, norm: {feature_norm: {space: keys}}}
stages:
  - {at: projector, keep: $front, score: cls, select: $how}
  - {at: "llm:$l1", keep: {of_current: {float: [0.3, 1.0]}}, score: {mix: {weights: $mix, normalise: rank}}}
  - {at: "llm:$l2", keep: solve, score: last}
warm_start: [fastv]
"""
VALUES: dict[str, Any] = {
    "budget": 0.4, "l1": 2, "l2": 0.5, "front": 0.66666, "mix[0]": 0.5, "mix[1]": 0.25, "how": "top",
    "params.how.choice[3].nms.tau": 0.8, "stages[1].keep.of_current": 0.7,
}  # fmt: skip


def mixed(depth: int = 12, tokens: int | None = 64) -> BoundSpace:
    return Space.from_source(parse(MIXED), PARTS, geometry(depth, tokens)).bind(geometry(depth, tokens))


def test_what_a_sampler_is_asked_for() -> None:
    assert mixed().parameters == (
        Parameter("budget", "float", 0.08, 0.6),
        Parameter("l1", "int", 2, 4),
        Parameter("l2", "float", 0.0, 1.0),
        Parameter("front", "float", 0.2, 1.0),
        Parameter("mix[0]", "float", 0.0, 1.0),
        Parameter("mix[1]", "float", 0.0, 1.0),
        Parameter("how", "choice", choices=("top", "stride", "far", "nms")),
        Parameter("stages[1].keep.of_current", "float", 0.3, 1.0),
        Parameter("params.how.choice[3].nms.tau", "float", 0.7, 0.95),
    )
    assert mixed().budget == (0.08, 0.6)
    assert mixed().warm_start == ("fastv",)


def test_filling_gives_a_policy_document() -> None:
    # l2 in [max(4, 3), 9]: 4 + floor(0.5·6) = 7; w1 = 1 - (1 - .5)^(1/2) = .293, w2 = .25·.707 = .177
    assert mixed().fill(VALUES).dump() == {
        "schema": "autoprune/policy/1",
        "name": "mixed",
        "criteria": {
            "cls": {"encoder_attention": {"layer": -2, "from": "cls"}},
            "last": {"llm_attention": {"from": "last"}},
            "norm": {"feature_norm": {"space": "keys"}},
        },
        "stages": [
            {"at": "projector", "keep": 0.667, "score": "cls"},
            {
                "at": "llm:2",
                "keep": {"of_current": 0.7},
                "score": {
                    "mix": {"weights": {"cls": 0.293, "last": 0.177, "norm": 0.53}, "normalise": "rank", "op": "sum"}
                },
            },
            {"at": "llm:7", "keep": {"to_budget": 0.4}, "score": "last"},
        ],
    }
    nested = mixed().fill({**VALUES, "how": "nms"}).dump()["stages"][0]["select"]
    assert nested == {"nms": {"tau": 0.8}}


def test_values_that_have_no_effect_share_one_digest() -> None:
    def of(**more: Any) -> str:
        return digest(resolve(mixed().fill({**VALUES, **more}), geometry(12), PARTS, 64))

    assert of() == of(**{"params.how.choice[3].nms.tau": 0.9})
    assert of(how="nms") != of(how="nms", **{"params.how.choice[3].nms.tau": 0.9})
    assert of() == of(front=0.6671)
    assert of() == of(l2=0.55)
    assert of() != of(l2=0.7)


def test_bad_values_are_refused_all_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        mixed().fill({**VALUES, "front": 1.5, "l1": 2.5, "how": "tpo", "extra": 1, "budget": float("nan")})
    assert len(str(caught.value).splitlines()) == 5
    with pytest.raises(BadInput, match="the parameter 'front' is missing"):
        mixed().fill({k: v for k, v in VALUES.items() if k != "front"})


@given(st.data(), st.integers(8, 40))
@settings(deadline=None, max_examples=60)
def test_every_sample_is_a_valid_placement_and_expressible(data: st.DataObject, depth: int) -> None:
    bound = mixed(depth)
    values = {p.name: data.draw(_value(p), p.name) for p in bound.parameters}
    policy = bound.fill(values)
    layers = [s.at.at(depth) for s in policy.stages]  # type: ignore[union-attr]
    assert layers[1] < layers[2] < depth
    assert Policy.parse(policy.dump(), PARTS) == policy
    try:
        wanted = digest(resolve(policy, geometry(depth), PARTS, 64))
    except Infeasible:
        assume(False)
    found = bound.express(policy)
    assert found is not None
    assert digest(resolve(bound.fill(found), geometry(depth), PARTS, 64)) == wanted


def _value(p: Parameter) -> st.SearchStrategy[Any]:
    if p.kind == "choice":
        return st.sampled_from(p.choices)
    if p.kind == "int":
        return st.integers(int(p.low or 0), int(p.high or 0))
    return st.floats(float(p.low or 0), float(p.high or 0))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_the_simplex_there_and_back(sticks: list[float]) -> None:
    weights = to_simplex(sticks)
    assert sum(weights) == 1
    assert min(weights) >= 0
    assert to_simplex(from_simplex(weights)) == weights


def test_stick_breaking_is_uniform_on_the_simplex() -> None:
    grid = [(i + 0.5) / 40 for i in range(40)]
    means = [sum(float(to_simplex((a, b))[k]) for a in grid for b in grid) / 1600 for k in range(3)]
    assert means == pytest.approx([1 / 3] * 3, abs=0.005)


def test_layers_in_a_chain_leave_room_for_each_other() -> None:
    text = """\
schema: autoprune/space/1
params: {a: {layer: [1, 7]}, b: {layer: [1, 7]}, c: {layer: [1, 7]}}
order: [a < b < c]
stages:
  - {at: "llm:$a", keep: 0.5, select: stride}
  - {at: "llm:$b", keep: 0.4, select: stride}
  - {at: "llm:$c", keep: 0.3, select: stride}
"""
    bound = Space.from_source(parse(text), PARTS, geometry(8)).bind(geometry(8))
    assert [(p.kind, p.low, p.high) for p in bound.parameters] == [("int", 1, 5), ("float", 0, 1), ("float", 0, 1)]
    sites = {
        tuple(s.at.at(8) for s in bound.fill({"a": a, "b": b, "c": c}).stages)
        for a in range(1, 6)
        for b in (0, 0.3, 0.6, 1)
        for c in (0, 0.5, 1)
    }  # type: ignore[union-attr]
    assert all(x < y < z <= 7 for x, y, z in sites)
    assert {(1, 2, 3), (5, 6, 7), (1, 2, 7)} <= sites


def test_sampled_keeps_are_cut_instead_of_rising() -> None:
    text = "stages: [{at: llm:2, keep: {float: [0.1, 1]}, select: stride}, {at: llm:4, keep: {float: [0.1, 1]}, select: stride}]"
    bound = Space.from_source(parse(text), PARTS).bind(geometry())
    policy = bound.fill({"stages[0].keep": 0.3, "stages[1].keep": 0.8})
    assert [s["keep"] for s in policy.dump()["stages"]] == [0.3, 0.3]


def test_a_log_range_keeps_three_digits_and_a_fixed_budget_is_not_sampled() -> None:
    text = "budget: 0.5\nstages: [{along: [1, 7], curve: {p_sigmoid: {low: {float: [0.0001, 0.1], log: true}, high: 1, mid: solve, slope: 8}}, select: stride}]"
    bound = Space.from_source(parse(text), PARTS).bind(geometry())
    assert [(p.log, p.low) for p in bound.parameters] == [(True, 0.0001)]
    curve = bound.fill({bound.parameters[0].name: 0.000234567}).dump()["stages"][0]["curve"]["p_sigmoid"]
    assert (curve["low"], curve["mid"]) == ("469/2000000", {"to_budget": 0.5}) or curve["low"] == pytest.approx(
        0.000235
    )
    assert bound.budget == (0.5, 0.5)


SPACE = "schema: autoprune/space/1\n"
ONE = "stages: [{at: llm:2, keep: $k, score: random}]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("params: {k: {float: [0, 1]}}\nstages: [{at: llm:2, keep: «$kk, score: random}]", "unknown parameter $kk; declared: k; did you mean 'k'?"),
        ("params: {k: {float: [0, 1]}, «j: {int: [1, 2]}}\n" + ONE, "the parameter 'j' is not used"),
        ("stages: [{at: 'llm:«$l', keep: 0.5, score: random}]", "unknown parameter $l"),
        ("budget: 0.5\nstages: [{at: llm:2, keep: solve, score: random}, {at: llm:4, keep: «solve, score: random}]", "a second `solve` (the first is stages[0].keep)"),
        ("stages: [{at: llm:2, keep: «solve, score: random}]", "`solve` needs a budget"),
        ("«budget: 0.5\nstages: [{at: llm:2, keep: 0.5, score: random}]", "there is a budget, but no number is `solve`"),
        ("budget: «{float: [0.5, 1.5]}\nstages: [{at: llm:2, keep: solve, score: random}]", "a budget is a number or {float: [a, b]}"),
        ("budget: 0.5\nstages: [{at: llm:2, keep: solve, score: random}, {at: llm:4, keep: 0.1, score: random}]", "to_budget stands in the last stage"),
        ("params: {k: {float: «[1, 0]}}\n" + ONE, "an empty range: [1, 0]"),
        ("params: {k: {float: «[1]}}\n" + ONE, "float has two ends"),
        ("params: {k: {float: [0, «x]}}\n" + ONE, "must be a number like 0.25 or 1/4, not 'x'"),
        ("params: {k: {float: [«0, 1], log: true}}\n" + ONE, "with `log` the lowest value is above 0"),
        ("params: {k: «0.5}\n" + ONE, "a parameter is one of {float: […]}"),
        ("params: {k: «{flot: [0, 1]}}\n" + ONE, "a parameter is one of {float: […]}"),
        ("params: {k: {choice: «[]}}\n" + ONE, "a choice needs at least one option"),
        ("params: {k: {choice: «[0.5, 0.5]}}\n" + ONE, "an option stands here twice"),
        ("params: {k: {weights: «[random]}}\n" + ONE, "weights are for two or more different criteria"),
        ("params: {l: {layer: «[5, 2]}}\nstages: [{at: 'llm:$l', keep: 0.5, score: random}]", "an empty placement range: [5, 2]"),
        ("params: {l: {layer: «[6, 1/4]}}\nstages: [{at: 'llm:$l', keep: 0.5, score: random}]", "an empty placement range for 'l' in a model of 8 layers"),
        ("params: {l: {layer: [2, «9]}}\nstages: [{at: 'llm:$l', keep: 0.5, score: random}]", "layer 9 is beyond the model: its 8 decoder layers are 0 to 7"),
        ("params: {a: {layer: [6, 7]}, b: {layer: «[2, 6]}}\norder: [a < b]\nstages: [{at: 'llm:$a', keep: 0.5, score: random}, {at: 'llm:$b', keep: 0.4, score: random}]", "an empty placement range for 'b' after a"),
        ("params: {k: {float: [0, 1]}, l: {layer: [1, 4]}}\norder: [l < «k]\nstages: [{at: 'llm:$l', keep: $k, score: random}]", "order is between layers; 'k' is a float"),
        ("params: {l: {layer: [1, 4]}}\norder: [l < «m]\nstages: [{at: 'llm:$l', keep: 1, score: random}]", "unknown parameter 'm'"),
        ("params: {a: {layer: [1, 4]}, b: {layer: [2, 6]}}\norder: «[a < b, b < a]\nstages: [{at: 'llm:$a', keep: 0.5, score: random}, {at: 'llm:$b', keep: 0.4, score: random}]", "the order goes in a circle"),
        ("params: {a: {layer: [1, 4]}, b: {layer: [2, 6]}}\nstages: [{at: 'llm:$a', keep: 0.5, score: random}, {at: «'llm:$b', keep: 0.4, score: random}]", "stages go from shallow to deep"),
        ("«arms: {}\nstages: [{at: llm:2, keep: 0.5, score: random}]", "unknown key 'arms'"),
        ("stages: [{at: encoder:3, keep: 0.5, score: random}]", "the site 'encoder' is not available"),
        ("stages: [{at: llm:2, keep: 0.5, score: «randm}]", "unknown criterion 'randm'"),
        ("stages: [{at: llm:2, keep: 0.5, score: random, select: {choice: [top, «tpo]}}]", "unknown selector 'tpo'"),
        ("params: {w: {weights: [random, «norm]}}\nstages: [{at: llm:2, keep: 0.5, score: {mix: {weights: $w}}}]", "unknown criterion 'norm'"),
        ("stages: [{at: llm:2, keep: «{float: [0.5, 1.5]}, score: random}]", "must be between 0 and 1, not 1.5"),
        ("params: {l: {float: [1, 2]}}\nstages: [{at: 'llm:«$l', keep: 0.5, score: random}]", "a fraction of the depth lies between 0 and 1, not '1.5'"),
        ("stages: [{at: llm:2, keep: {tokens: «{float: [1, 2]}}, score: random}]", "a number of tokens is an integer from 0, not 1.5"),
        ("stages: [{at: projector, keep: 0.5, score: «llm_attention}]", "is legal at llm, not at projector"),
        ("params: {l: {layer: [0, 4]}}\nstages: [{at: 'llm:$l', keep: 0.5, score: «llm_attention}]", "`layer: prev` at llm:0"),
        ("stage: []", "unknown key 'stage'"),
        ("stages: «[]", "stages are a list with at least one entry"),
        ("stages: [{at: llm:2, keep: 0.5, score: random}]\nwarm_start: «fastv", "warm_start is a list of policy names"),
    ],
)  # fmt: skip
def test_mistakes_are_positioned(text: str, expected: str) -> None:
    before = (SPACE + text).partition("«")[0]
    place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
    with pytest.raises(BadInput) as caught:
        Space.from_source(parse(SPACE + text.replace("«", "")), PARTS, geometry())
    right = [p for p in caught.value.problems if expected in p.message]
    assert len(right) == 1, caught.value.problems
    if "«" in text:
        assert (right[0].line, right[0].column) == place


@pytest.mark.parametrize("depth", [8, 12, 28, 32, 80])
@pytest.mark.parametrize("name", ["fastv", "pyramiddrop", "p_sigmoid", "two_stage_mixed"])
def test_shipped_spaces_fit_every_depth_with_the_registered_parts(name: str, depth: int) -> None:
    from autoprune.pruning.lookup import RegisteredParts

    parts, model = RegisteredParts(), geometry(depth, 576, 24)
    bound = Space.from_source(read(catalog.find("search_spaces", name)), parts, model).bind(model)
    for start in bound.warm_start:
        policy = Policy.from_source(read(catalog.find("policies", start)), parts)
        if bound.budget is not None:
            policy = at_budget(policy, Fraction(sum(bound.budget) / 2).limit_denominator(1000))
        found = bound.express(policy)
        assert name != start or found is not None
        if found is not None:
            assert digest(resolve(bound.fill(found), model, parts, 576)) == digest(resolve(policy, model, parts, 576))


def test_a_space_that_cannot_say_it_says_none() -> None:
    policy = Policy.parse(
        {"schema": "autoprune/policy/1", "stages": [{"at": "llm:11", "keep": 0.5, "select": "stride"}]}
    )
    assert mixed().express(policy) is None


def test_digest_is_of_what_may_vary() -> None:
    def of(text: str) -> str:
        return Space.from_source(parse(text), PARTS).digest

    assert of(MIXED) == of(MIXED.replace("name: mixed", "name: other").replace("warm_start: [fastv]", ""))
    assert of(MIXED) != of(MIXED.replace("0.60", "0.61"))
    assert of(MIXED) != of(MIXED.replace("stride, far", "far, stride"))


def test_a_mistake_in_an_option_stands_at_the_parameter() -> None:
    """Whole or inside a part's parameters, and in an option of an option; every option has its own mistake."""
    text = """\
params:
  how: {choice: [top, farr, {stride: {stpe: 2}}]}
  which: {choice: [random, {choice: [feature_norm, lenn]}]}
stages: [{at: llm:2, keep: 0.5, score: $which, select: $how}, {at: llm:4, keep: 0.25, score: random, select: $how}]
"""
    with pytest.raises(BadInput) as caught:
        Space.from_source(parse(SPACE + text), PARTS, geometry())
    start = SPACE.count("\n")
    found = {p.path: (p.line - start, p.message) for p in caught.value.problems}
    assert {path: line for path, (line, _) in found.items()} == {
        "params.how.choice[1]": 2,
        "params.how.choice[2].stride.stpe": 2,
        "params.which.choice[1].choice[1]": 3,
    }, found
    assert "unknown selector 'farr'" in found["params.how.choice[1]"][1]


def test_a_wrong_frame_hides_no_mistake_in_the_parts() -> None:
    """Unused, misspelt, empty and too deep parameters, and what only follows from them is not said."""
    text = """\
params:
  first: {layer: [1, 4]}
  second: {layer: [6, 3]}
  third: {layer: [5, 300]}
  spare: {float: [0, 1]}
stages:
  - {at: 'llm:$frist', keep: 0.5, score: randm}
  - {at: 'llm:$second', keep: 0.4, score: random}
  - {at: 'llm:$third', keep: 0.3, score: random, select: tpo}
  - {at: llm:40, keep: 0.2, score: rnadom, selct: top}
"""
    with pytest.raises(BadInput) as caught:
        Space.from_source(parse(SPACE + text), PARTS, geometry())
    found = {(p.path, p.message.split(";")[0].split(":")[0]) for p in caught.value.problems}
    assert found == {
        ("params.second.layer", "an empty placement range"),
        ("params.third.layer[1]", "layer 300 is beyond the model"),
        ("params.spare", "the parameter 'spare' is not used"),
        ("stages[0].at", "unknown parameter $frist"),
        ("stages[0].score", "unknown criterion 'randm'"),
        ("stages[2].select", "unknown selector 'tpo'"),
        ("stages[3].at", "llm"),  # beyond the model
        ("stages[3].score", "unknown criterion 'rnadom'"),
        ("stages[3].selct", "unknown key 'selct'"),
    }


def test_the_ends_that_can_be_widened() -> None:
    """A keep of 1, simplex numbers and the neighbours in an order end a range for good."""
    ends = {p.name: p.edges for p in mixed().parameters}
    assert ends["budget"] == ("0.08", "0.6")
    assert ends["front"] == ("0.2", None)
    assert ends["mix[0]"] == (None, None)
    assert ends["l1"] == ("layer 2", "layer 4")
    assert ends["l2"] == (None, "layer 9")
    assert ends["params.how.choice[3].nms.tau"] == ("0.7", "0.95")
    l2 = next(p for p in mixed().parameters if p.name == "l2")
    assert mixed().fill({**VALUES, "l2": 1 - l2.near}).dump()["stages"][2]["at"] == "llm:9"
