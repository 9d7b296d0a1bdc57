# ruff: noqa: E501 - tables with one case a line
"""Equal effects have one canonical form; different effects have different ones."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from policy_fakes import PARTS, geometry

from autoprune.document.yaml import parse
from autoprune.errors import BadInput
from autoprune.policy.budget import counts, lengths
from autoprune.policy.canonical import digest, from_json, resolve, to_json
from autoprune.policy.document import Policy
from autoprune.policy.geometry import Geometry
from autoprune.policy.resolved import Keep, Mix, Part, ResolvedPolicy

LAST: dict[str, Any] = {"at": "llm:4", "keep": 0.5, "score": "llm_attention"}


def test_fractions_that_meet_in_a_shallow_model_run_one_after_the_other() -> None:
    policy = document({**LAST, "at": "llm:7/32"}, {**LAST, "at": "llm:9/32", "keep": 0.25})
    deep = resolve(policy, geometry(32, 64), PARTS, 64)
    assert [s.layer for s in deep.stages] == [7, 9]
    shallow = resolve(policy, geometry(8, 64), PARTS, 64)
    assert [(s.layer, s.keep.value) for s in shallow.stages] == [(2, 32), (2, 16)]
    assert lengths(shallow, 64) == (64, 64, 16, 16, 16, 16, 16, 16)
    for second in ("llm:2", "llm:1/4"):
        with pytest.raises(BadInput, match="a second stage"):
            resolve(document({**LAST, "at": "llm:1/4"}, {**LAST, "at": second, "keep": 0.25}), geometry(8, 64), PARTS)


def document(*stages: dict[str, Any], **more: Any) -> Policy:
    return Policy.parse({"schema": "autoprune/policy/1", "stages": list(stages), **more}, PARTS)


def of(*stages: dict[str, Any], tokens: int | None = 64, depth: int = 8, **more: Any) -> str:
    return digest(resolve(document(*stages, **more), geometry(depth, tokens), PARTS, tokens))


def mix(weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"mix": {"weights": weights, **more}}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (LAST, {**LAST, "at": "llm:1/2"}),
        (LAST, {**LAST, "keep": "1/2"}),
        (LAST, {**LAST, "keep": {"tokens": 32}}),
        (LAST, {**LAST, "keep": {"of_current": 0.5}}),
        (LAST, {**LAST, "keep": {"to_budget": 0.75}}),
        (LAST, {**LAST, "keep": 0.497}),  # 31.8 tokens are 32
        (LAST, {**LAST, "score": {"llm_attention": {"layer": 3, "from": "last"}}}),
        (LAST, {**LAST, "score": {"llm_attention": {"layer": "3/8"}}}),
        (LAST, {**LAST, "score": mix({"llm_attention": 3, "random": 0})}),
        (LAST, {**LAST, "pick": [{"share": 1, "score": "llm_attention"}], "score": None}),
        ({**LAST, "select": "stride"}, {"at": "llm:4", "keep": 0.5, "select": "stride"}),
        ({**LAST, "score": mix({"random": 1, "feature_norm": 3})}, {**LAST, "score": mix({"feature_norm": 0.75, "random": 0.25})}),
        ({"at": "input", "keep": 0.5, "score": "random"}, {"at": "llm:0", "keep": 0.5, "score": {"random": {"seed": 0}}}),
        ({**LAST, "score": {"encoder_attention": {"layer": -2}}}, {**LAST, "score": {"encoder_attention": {"layer": 4}}}),
        ({**LAST, "score": {"encoder_attention": {"layer": "5/24"}}}, {**LAST, "score": {"encoder_attention": {"layer": 1}}}),
        (
            {**LAST, "score": {"encoder_attention": {"layer": None, "layers": ["1/3", -2]}}},
            {**LAST, "score": {"encoder_attention": {"layer": None, "layers": [2, 4]}}},
        ),
        (
            {**LAST, "score": {"llm_attention": {"layer": None, "layers": ["1/8", "prev"]}}},
            {**LAST, "score": {"llm_attention": {"layer": None, "layers": [1, 3]}}},
        ),
        ({**LAST, "protect": {"index": [3, 1, 3]}}, {**LAST, "protect": {"index": [1, 3]}}),
        (LAST, {**LAST, "protect": "newlines"}),
        (LAST, {**LAST, "group": {"row": {"split": "pooled"}}}),
        ({"at": "projector", "keep": 0.5, "score": "random"}, {"at": "input", "keep": 0.5, "score": "random"}),
        (
            {"at": "llm:4", "keep": 0.5, "merge": "soft", "pick": [{"share": 0.5, "select": "stride"}, {"score": "random"}]},
            {"at": "llm:4", "keep": 0.5, "merge": "soft", "pick": [{"share": 0.5, "select": "stride", "score": "feature_norm"}, {"score": "random"}]},
        ),
    ],
)  # fmt: skip
def test_equal_effects_share_one_digest(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert of(a) == of({k: v for k, v in b.items() if v is not None})


@pytest.mark.parametrize(
    "b",
    [
        {**LAST, "at": "llm:3"},
        {**LAST, "keep": 0.51},
        {**LAST, "score": {"llm_attention": {"layer": "own"}}},
        {**LAST, "score": {"llm_attention": {"from": "text"}}},
        {**LAST, "score": {"llm_attention": {"layer": None, "layers": [2, 3]}}},
        {**LAST, "select": "far"},
        {**LAST, "merge": "nearest"},
        {**LAST, "positions": "compact"},
        {**LAST, "protect": {"index": [1]}},
        {**LAST, "protect": "last"},
        {**LAST, "score": mix({"llm_attention": 1, "random": 1})},
        # a merger that reads the values of scores sees the difference between a criterion and its ranks
    ],
)
def test_different_effects_differ(b: dict[str, Any]) -> None:
    assert of(LAST) != of(b)


def test_what_reads_values_sees_the_normalisation() -> None:
    soft = {**LAST, "merge": "soft"}
    assert of(soft) != of({**soft, "score": mix({"llm_attention": 1})})
    assert of({**soft, "select": "stride"}) != of(
        {"at": "llm:4", "keep": 0.5, "select": "stride", "merge": "soft", "score": "random"}
    )


def test_names_documentation_and_stages_that_keep_everything_leave_no_trace() -> None:
    named = {**LAST, "score": "mine"}
    plain = of(LAST)
    assert of(named, criteria={"mine": "llm_attention"}, name="x", paper="y", literal={"depth": 32}) == plain
    assert of({"at": "projector", "keep": 1, "score": "random"}, LAST) == plain
    assert of(LAST, {"at": "llm:6", "keep": {"of_current": 1}, "score": "random"}) == plain
    assert of(LAST, {"at": "llm:6", "keep": 0.5, "score": "random"}) == plain
    assert of(LAST, {"at": "llm:6", "keep": {"to_budget": 0.8}, "score": "random"}) == plain
    assert of({"at": "projector", "keep": 1, "score": "random"}, LAST, tokens=None) == of(LAST, tokens=None)
    assert of({"at": "projector", "keep": 1, "score": "random"}) == of()


def test_a_curve_is_its_stages() -> None:
    curve = {"along": ["1/4", "3/4"], "curve": {"geometric": {"ratio": 0.5, "every": 2}}, "score": "llm_attention"}
    stages = [{**LAST, "at": f"llm:{layer}", "keep": keep} for layer, keep in ((2, "1/2"), (4, "1/4"), (6, "1/8"))]
    for tokens in (None, 64):
        assert of(curve, tokens=tokens) == of(*stages, tokens=tokens)


def test_keeps_are_exact_fractions_where_n_differs_and_counts_where_it_does_not() -> None:
    policy = document({**LAST, "keep": "1/3"}, {**LAST, "at": "llm:6", "keep": {"to_budget": 0.6}})
    assert [s.keep for s in resolve(policy, geometry(), PARTS).stages] == [
        Keep("fraction", Fraction(1, 3)),
        Keep("to_budget", Fraction(3, 5)),
    ]
    # 64 tokens: 21; budget 0.6 of 512 = 307.2, 4·64 + 2·21 = 298 spent, 9.2 left for two layers: 4
    counted = resolve(policy, geometry(), PARTS, 64)
    assert [s.keep for s in counted.stages] == [Keep("tokens", Fraction(21)), Keep("tokens", Fraction(4))]


def test_counts_stop_where_a_number_of_separators_is_protected() -> None:
    """How many separators a sample has is not known here: a count would ignore that they stay."""
    policy = document(LAST, {**LAST, "at": "llm:6", "keep": 0.2, "protect": "newlines"})
    varying = geometry(tokens=None)
    free = replace(varying, protects_newlines=False)

    def kinds(model: Geometry) -> list[str]:
        return [s.keep.kind for s in resolve(policy, model, PARTS, 64).stages]

    assert kinds(geometry()) == ["tokens", "tokens"]
    assert kinds(varying) == ["fraction", "fraction"]
    assert kinds(free) == ["tokens", "fraction"]
    assert resolve(policy, free, PARTS, 64).stages[1].protect == "newlines"
    assert resolve(policy, varying, PARTS, 64).stages[1].protect is None


@pytest.mark.parametrize("tokens", [None, 64])
def test_numbering_positions_anew_is_an_effect_of_its_own(tokens: int | None) -> None:
    """A stage that drops nothing may still close the gaps that an earlier one left."""
    everything: dict[str, Any] = {"at": "llm:6", "keep": 1, "score": "random", "positions": "compact"}
    early = {**LAST, "positions": "compact"}
    for idle in ({**everything, "keep": 0.5}, {**everything, "keep": {"of_current": 1}, "select": "far"}):
        assert of(LAST, idle, tokens=tokens) == of(LAST, {**everything, "keep": {"of_current": 1}}, tokens=tokens)
        assert of(LAST, idle, tokens=tokens) != of(LAST, tokens=tokens)
        assert of(early, idle, tokens=tokens) == of(early, tokens=tokens)  # nothing is left to close
    assert of({**everything, "at": "llm:2"}, LAST, tokens=tokens) == of(LAST, tokens=tokens)


@pytest.mark.parametrize("tokens", [64, None])
def test_attending_by_mass_is_said_once_where_it_begins_to_tell(tokens: int | None) -> None:
    def attends(*merges: str, flags: tuple[bool, ...], keeps: tuple[float, ...]) -> list[tuple[int, bool]]:
        made = [
            {"at": f"llm:{2 + i}", "keep": keep, "select": "stride", "merge": merge}
            | ({"attend": "mass"} if flag else {})
            for i, (merge, flag, keep) in enumerate(zip(merges, flags, keeps, strict=True))
        ]
        policy = Policy.parse({"schema": "autoprune/policy/1", "stages": made}, PARTS)
        return [(s.layer, s.attend is not None) for s in resolve(policy, geometry(), PARTS, tokens).stages]

    assert attends("drop", "drop", flags=(True, True), keeps=(0.5, 0.2)) == [(2, False), (3, False)]
    assert attends("nearest", "drop", flags=(True, True), keeps=(0.5, 0.2)) == [(2, True), (3, False)]
    assert attends("drop", "nearest", flags=(True, False), keeps=(0.5, 0.2)) == [(2, False), (3, True)]
    assert attends("nearest", "drop", flags=(False, True), keeps=(0.5, 0.2)) == [(2, False), (3, True)]
    assert attends("nearest", "nearest", flags=(False, True), keeps=(0.5, 0.5)) == [(2, False), (3, True)]
    assert attends("nearest", "nearest", flags=(True, True), keeps=(0.5, 0.5)) == [(2, True)]
    assert attends("nearest", "drop", flags=(True, False), keeps=(1, 0.5)) == [(3, False)]


def test_without_n_only_what_surely_drops_nothing_is_left_out() -> None:
    def kinds(*keeps: Any) -> list[str]:
        stages = [{**LAST, "at": f"llm:{i + 1}", "keep": keep} for i, keep in enumerate(keeps)]
        return [f"{s.keep.kind} {s.keep.value}" for s in resolve(document(*stages), geometry(), PARTS).stages]

    assert kinds({"tokens": 9}, "1/2") == ["tokens 9", "fraction 1/2"]
    assert kinds("1/2", {"tokens": 1}) == ["fraction 1/2", "tokens 1"]
    assert kinds({"of_current": 1}, "1/2", "1/2", {"to_budget": 1}) == ["fraction 1/2"]
    assert kinds("1/2", {"of_current": "1/2"}, "1/4") == ["fraction 1/2", "of_current 1/2", "fraction 1/4"]


def test_a_lower_keep_in_force_through_protection_is_a_stage() -> None:
    """The first stage keeps its four named tokens; the second, which names none, really keeps two of sixteen."""
    first = {**LAST, "keep": "1/8", "protect": {"index": [0, 1, 2, 3]}}
    second = {**LAST, "at": "llm:6", "keep": "1/8"}
    for tokens in (None, 16):
        resolved = resolve(document(first, second), geometry(tokens=16), PARTS, tokens)
        assert counts(resolved, 16) == (4, 2)


@pytest.mark.parametrize("curve", [
    {"p_sigmoid": {"low": 0.05, "high": 0.9, "mid": {"to_budget": 0.39}, "slope": 9}},
    {"logistic": {"scale": {"to_budget": 0.3}, "mid": 0.5, "slope": 9, "most": 0.8}},
    {"linear": {"from": {"to_budget": "2/3"}, "to": 0.1}},
    {"geometric": {"ratio": {"to_budget": 0.55}, "every": 2}},
])  # fmt: skip
def test_a_solved_curve_is_the_same_with_and_without_n(curve: dict[str, Any]) -> None:
    """What was measured with counts is what is attached later, where only the model is known; and it meets its budget."""
    policy = document({"along": [1, 7], "curve": curve, "score": "llm_attention"})
    for tokens in (64, 144, 7):
        model = geometry(tokens=tokens)
        measured, attached = (lengths(resolve(policy, model, PARTS, n), tokens) for n in (tokens, None))
        assert measured == attached


def test_resolved_values() -> None:
    score = mix({"a": 1, "random": 3}, op="max", normalise="minmax")
    pick = [{"share": "1/4", "score": score, "select": {"nms": {"tau": 0.5}}}, {"select": "stride"}]
    policy = document({"at": "llm:1/2", "keep": 0.5, "pick": pick}, criteria={"a": {"llm_attention": {"layer": "own"}}})
    (stage,) = resolve(policy, geometry(), PARTS, 64).stages
    assert (stage.site, stage.layer, stage.merge) == ("llm", 4, Part("drop"))
    assert stage.picks[0].score == Mix(
        (
            (Fraction(1, 4), Part("llm_attention", {"layer": 4, "layers": None, "from": "last"})),
            (Fraction(3, 4), Part("random", {"seed": 0})),
        ),
        "minmax",
        "max",
    )
    assert (stage.picks[0].share, stage.picks[1].share) == (Fraction(1, 4), None)
    assert stage.picks[1].score is None


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema": "x"}', '{"schema": "autoprune/canonical/1", "depth": 8, "stages": [1]}']
)
def test_a_corrupt_canonical_form_is_bad_input(text: str) -> None:
    with pytest.raises(BadInput, match="not a canonical policy"):
        from_json(text)


def test_canonical_json_is_sorted_compact_and_tagged() -> None:
    text = to_json(resolve(document(LAST), geometry(), PARTS, 64))
    assert json.loads(text)["schema"] == "autoprune/canonical/1"
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_a_group_is_part_of_the_canonical_form_and_absent_where_there_is_none() -> None:
    text = "schema: autoprune/policy/1\nstages: [{at: projector, keep: 1/2, score: random, group: {window: 0.25}}]"
    grouped = Policy.from_source(parse(text, "p.yaml"), PARTS)
    assert Policy.parse(grouped.dump(), PARTS) == grouped
    plain = Policy.from_source(parse(text.replace(", group: {window: 0.25}", ""), "p.yaml"), PARTS)
    forms = [to_json(resolve(p, geometry(), PARTS)) for p in (grouped, plain)]
    assert '"group":{"window":{"side":"1/4","split":"equal"}}' in forms[0]
    assert "group" not in forms[1]
    assert to_json(from_json(forms[0])) == forms[0]


def test_scores_stay_where_only_a_groups_split_reads_them() -> None:
    text = (
        "schema: autoprune/policy/1\nstages: [{at: projector, keep: 1/2, score: random, select: stride, group: GROUP}]"
    )
    for group, read in (("{row: {split: equal}}", False), ("{row: {split: proportional}}", True)):
        resolved = resolve(Policy.from_source(parse(text.replace("GROUP", group), "p"), PARTS), geometry(), PARTS)
        assert (resolved.stages[0].picks[0].score is not None) == read


def test_a_fraction_of_the_depth_is_a_layer_that_exists() -> None:
    for depth in (2, 8, 32):
        (stage,) = resolve(
            document({"at": "llm:31/32", "keep": 0.5, "select": "stride"}), geometry(depth=depth), PARTS
        ).stages
        assert stage.layer == depth - 1


PICKS = """
schema: autoprune/policy/1
criteria: {other: {encoder_attention: {layer: 1/2}}}
stages:
  - at: projector
    keep: 1/2
    pick:
      - {share: 3/5, overlap: FIRST, score: random, dilate: DILATE}
      - {share: 3/5, overlap: true, score: random, group: {tile: {split: SPLIT}}, allocate: other}
      - {score: random}
"""


def _picks(first: str = "false", dilate: str = "cross", split: str = "whole") -> ResolvedPolicy:
    text = PICKS.replace("FIRST", first).replace("DILATE", dilate).replace("SPLIT", split)
    policy = Policy.from_source(parse(text, "p.yaml"), PARTS)
    assert Policy.parse(policy.dump(), PARTS) == policy
    return resolve(policy, geometry(), PARTS)


def test_what_overlaps_dilates_and_allocates_is_part_of_the_canonical_form() -> None:
    """And where it does nothing, or is the default, it is not: the first pick has nothing to overlap with."""
    form = to_json(_picks())
    first, second, last = _picks().stages[0].picks
    assert (first.overlap, first.dilate, first.allocate) == (False, "cross", None)
    assert (second.overlap, second.dilate, last.overlap) == (True, None, False)
    assert isinstance(second.allocate, Part)
    assert second.allocate.params["layer"] == 3  # of the geometry's six blocks
    assert to_json(from_json(form)) == form
    assert to_json(_picks(first="true")) == form
    assert '"dilate"' not in to_json(_picks(dilate="none"))
    assert form.count('"overlap":true') == 1
    assert to_json(_picks(split="proportional")) != form
