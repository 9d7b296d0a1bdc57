# ruff: noqa: E501 - a table with one case a line
from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_fakes import PARTS, geometry

from autoprune.document.yaml import parse
from autoprune.errors import BadInput
from autoprune.policy.beside import problems
from autoprune.policy.canonical import digest, from_json, resolve, to_json
from autoprune.policy.document import Policy
from autoprune.pruning.lookup import RegisteredParts

HEAD = "schema: autoprune/policy/1\nstages:\n"

FRACTION = st.fractions(0, 1, max_denominator=60).map(str) | st.integers(1, 999).map(lambda i: i / 1000)
CRITERIA = st.sampled_from(
    [
        "feature_norm",
        {"random": {"seed": 3}},
        {"encoder_attention": {"layer": "1/2", "from": "cls"}},
        {"encoder_attention": {"layer": -2}},
        {"feature_norm": {"space": "keys"}},
    ]
)
NAMED = st.dictionaries(
    st.text(string.ascii_lowercase, min_size=3, max_size=6).map(lambda n: "c_" + n), CRITERIA, max_size=3
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    named = draw(NAMED)
    names = [*named, "random", "feature_norm"]
    mixes = st.dictionaries(st.sampled_from(names), st.integers(1, 9) | FRACTION.filter(lambda f: f != "0"), min_size=1)
    scores = CRITERIA | st.sampled_from(names) | mixes.map(lambda w: {"mix": {"weights": w}})
    select = st.sampled_from(["top", "stride", "far", {"far": {"space": "hidden"}}, {"nms": {"tau": 0.5}}])
    stages, least, kind = [], 1000, draw(st.sampled_from(["fraction", "of_current"]))
    for layer in sorted(draw(st.sets(st.integers(1, 7), max_size=3))):
        least = draw(st.integers(1, least))
        keep = least / 1000 if kind == "fraction" else {"of_current": least / 1000}
        stage: dict[str, Any] = {"at": f"llm:{layer}", "keep": keep}
        one = {"score": draw(scores), "select": draw(select)}
        stage |= draw(st.sampled_from([one, {"pick": [{"share": "1/3", **one}, {"score": draw(scores)}]}]))
        stage |= {"merge": draw(st.sampled_from(["drop", "soft", {"nearest": {"space": "hidden"}}]))}
        stage |= draw(
            st.sampled_from([{}, {"protect": "newlines"}, {"protect": "last"}, {"protect": {"index": [4, 1]}}])
        )
        stage |= draw(st.sampled_from([{}, {"positions": "compact"}]))
        stage |= draw(st.sampled_from([{}, {"attend": "mass"}]))
        stages.append(stage)
    return {"schema": "autoprune/policy/1", "name": draw(st.text(max_size=5)), "criteria": named, "stages": stages}


@settings(max_examples=120, deadline=None)
@given(documents(), st.sampled_from([None, 64, 7]))
def test_documents_and_canonical_forms_round_trip(document: dict[str, Any], tokens: int | None) -> None:
    policy = Policy.parse(document, PARTS)
    assert Policy.parse(policy.dump(), PARTS) == policy
    if policy.name.isprintable():
        assert Policy.from_source(parse(policy.to_yaml()), PARTS) == policy
    resolved = resolve(policy, geometry(), PARTS, tokens)
    assert from_json(to_json(resolved)) == resolved
    assert digest(resolve(Policy.parse(policy.dump()), geometry(), PARTS, tokens)) == digest(resolved)


@pytest.mark.parametrize(
    "stage",
    [
        {"along": [2, "3/4"], "curve": {"p_sigmoid": {"low": 0, "high": 1, "mid": {"to_budget": 0.5}, "slope": 8}}},
        {"along": [2, "3/4"], "curve": {"logistic": {"scale": {"to_budget": 0.5}, "mid": 0.5, "slope": 8}}},
        {"along": [2, 5], "curve": {"steps": [[2, 0.5], [4, {"to_budget": 0.4}]]}},
        {"along": [2, 5], "curve": {"linear": {"from": {"to_budget": 0.4}, "to": ".1"}}},
        {"along": [2, 5], "curve": {"geometric": {"ratio": "2/3", "every": 2}}},
    ],
)
def test_curves_stay_curves(stage: dict[str, Any]) -> None:
    policy = Policy.parse({"schema": "autoprune/policy/1", "stages": [{**stage, "select": "stride"}]}, PARTS)
    assert policy.dump()["stages"][0]["curve"] == stage["curve"]
    assert Policy.parse(policy.dump()) == policy
    assert resolve(policy, geometry(), PARTS, 64).stages


STAGE = "  - {at: llm:4, keep: 0.5, score: feature_norm}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('  - {at: llm:4, «kep: 0.5, keep: 1, score: random}', "stages[0].kep: unknown key 'kep'; allowed: at, keep"),
        ('  - «{at: llm:4, score: random}', "stages[0].keep: the key 'keep' is missing"),
        ('  - {at: llm:4, keep: 0.5, score: «featur_norm}', "stages[0].score: unknown criterion 'featur_norm'; known:"),
        ('  - {at: llm:4, keep: 0.5, score: {«randm: {seed: 1}}}', "stages[0].score.randm: unknown criterion 'randm'"),
        ('  - {at: llm:4, keep: 0.5, score: random, select: «tpo}', "stages[0].select: unknown selector 'tpo'"),
        ('  - {at: llm:4, keep: 0.5, score: random, merge: «nearst}', "did you mean 'nearest'?"),
        ('  - {at: llm:4, keep: 0.5, score: {random: {«sed: 1}}}', "stages[0].score.random.sed: unknown key 'sed'; allowed: seed; did you mean 'seed'?"),
        ('  - {at: llm:4, keep: 0.5, score: {random: {seed: «x}}}', 'stages[0].score.random.seed: should be a valid integer'),
        ('  - {at: llm:4, keep: 0.5, score: {random: «1}}', "stages[0].score.random: the parameters of 'random' are a mapping"),
        ('  - {at: llm:4, keep: «x, score: random}', "stages[0].keep: must be a number like 0.25 or 1/4, not 'x'"),
        ('  - {at: llm:4, keep: «1.5, score: random}', 'stages[0].keep: must be between 0 and 1, not 1.5'),
        ('  - {at: llm:4, keep: {tokens: «2.5}, score: random}', 'stages[0].keep.tokens: a number of tokens is an integer'),
        ('  - {at: «llm, keep: 0.5, score: random}', "unknown site 'llm'; allowed: projector, input, llm:<layer>; llm needs a layer, as in llm:2"),
        ('  - {at: llm:4, keep: {«of_curent: 0.5}, score: random}', 'stages[0].keep.of_curent: unknown kind of keep'),
        ('  - {at: «lm:4, keep: 0.5, score: random}', "stages[0].at: unknown site 'lm:4'; allowed: projector, input, llm:<layer>"),
        ("  - {at: 'llm:«x', keep: 0.5, score: random}", 'stages[0].at: a layer is an integer from 0, or a fraction'),
        ('  - {at: llm:«8, keep: 0.5, score: random}', 'stages[0].at: llm:8 is beyond the model: its 8 decoder layers are 0 to 7'),
        ('  - {at: «encoder:3, keep: 0.5, score: random}', "stages[0].at: the site 'encoder' is not available in this version"),
        ('  - {at: «cache:3, keep: 0.5, score: random}', "the site 'cache' is not available in this version"),
        ('  - {at: llm:4, keep: 0.5, score: random, group: «tiles}', "unknown group 'tiles'; known: image, row, tile, window; did you mean 'tile'?"),
        ('  - {at: llm:4, keep: 0.5, select: stride, group: «{row: {split: whole}}}', "group: split whole needs a `score`"),
        ('  - {at: llm:4, keep: 0.5, score: random, group: {«window: 3/2}}', "a window's side is a part of the grid's"),
        ('  - {at: llm:4, keep: 0.5, «group: row, pick: [{score: random}]}', "'group' stands in the entries of `pick`"),
        ('  - {at: llm:4, keep: 0.5, pick: [{share: 0.5, score: random, overlap: «1}, {score: random}]}', "stages[0].pick[0].overlap: overlap is true or false, not 1"),
        ('  - {at: llm:4, keep: 0.5, pick: [{share: 0.5, score: random, dilate: «cros}, {score: random}]}', "stages[0].pick[0].dilate: must be one of none, cross, not 'cros'; did you mean 'cross'?"),
        ('  - {at: llm:4, keep: 0.5, pick: [{score: random, «dilate: cross}]}', "the last pick takes exactly the rest: it cannot dilate"),
        ('  - {at: llm:4, keep: 0.5, pick: [{share: 0.5, score: random}, {score: random, «overlap: true}]}', "the last pick takes exactly the rest: it cannot overlap"),
        ('  - {at: llm:4, keep: 0.5, pick: [{share: 0.5, score: random, overlap: true}, {share: «1, score: random}]}', "the last pick takes the rest: leave its share out"),
        ('  - {at: llm:4, keep: 0.5, pick: «[{share: 0.7, score: random}, {share: 0.6, score: random}, {score: random}]}', "the shares sum to 13/10, more than 1"),
        ('  - {at: llm:4, keep: 0.5, score: random, «overlap: true}', "stages[0].overlap: unknown key 'overlap'"),
        ('  - {at: llm:4, keep: 0.5, score: random, allocate: «random}', "allocate: says how groups share the count, and this pick has no `group`"),
        ('  - {at: llm:4, keep: 0.5, score: random, group: tile, allocate: «random}', "allocate: split equal reads no score; those that do: proportional, mean, whole"),
        ('  - {at: llm:4, keep: 0.5, score: random, group: {tile: {split: whole}}, allocate: «randm}', "stages[0].allocate: unknown criterion 'randm'"),
        ('  - {at: llm:4, keep: 0.5, «allocate: random, pick: [{score: random}]}', "'allocate' stands in the entries of `pick`"),
        ('  - {at: llm:4, keep: 0.5, score: random, attend: «size}', "stages[0].attend: must be one of mass, not 'size'"),
        ('  - {at: llm:4, keep: 0.5, score: random, restore: «1}', "stages[0].restore: must be one of parked, scattered, not 1"),
        ('  - {at: llm:4, keep: 0.5, score: random, restore: «parked}', "stages[0].restore: no stage before has anything to restore: `merge: park`"),
        ('  - {at: projector, keep: 0.5, score: random, merge_on: «tower}', "stages[0].merge_on: must be one of projected, encoder, earliest, not 'tower'"),
        ('  - {at: input, keep: 0.5, score: random, «merge_on: earliest}', "stages[0].merge_on: merge_on: earliest is legal at projector, not at llm:0"),
        ('  - {along: [2, 4], keep: {of_current: 0.5}, score: random, «merge_on: encoder}', "stages[0].merge_on: unknown key 'merge_on'"),
        (STAGE + 'parity: {«position: compact}', "parity.position: unknown key 'position'; allowed: positions, rows, notes; did you mean 'positions'?"),
        (STAGE + 'parity: {positions: «compct}', "parity.positions: must be one of keep, compact, not 'compct'; did you mean 'compact'?"),
        (STAGE + 'parity: {rows: «total}', "parity.rows: must be one of mean, sum, not 'total'"),
        (STAGE + 'parity: {notes: «[a]}', "parity.notes: must be text"),
        (STAGE + 'parity: «compact', "parity: must be a mapping with the keys positions, rows, notes, not 'compact'"),
        ('  - {at: projector, keep: 0.5, score: «llm_attention}', "stages[0].score: criterion 'llm_attention' is legal at llm, not at projector"),
        ('  - {at: input, keep: 0.5, score: «llm_attention}', 'stages[0].score: `layer: prev` at llm:0'),
        ('  - {at: llm:0, keep: 0.5, score: {llm_attention: {layer: «prev}}}', 'stages[0].score.llm_attention.layer: `layer: prev`'),
        ('  - {at: llm:4, keep: 0.5, score: {llm_attention: {layer: «5}}}', 'the row of layer 5 does not exist yet at llm:4'),
        ('  - {at: llm:4, keep: 0.5, score: {encoder_attention: {layer: «-7}}}', 'stages[0].score.encoder_attention.layer: encoder block -7'),
        ('  - {at: llm:4, keep: 0.5, score: {encoder_attention: {layer: null, layers: [0, «6]}}}', 'stages[0].score.encoder_attention.layers[1]: encoder block 6'),
        ('  - {at: llm:4, keep: 0.5, score: {llm_attention: {layer: null, layers: [own, «5]}}}', 'the row of layer 5 does not exist yet at llm:4'),
        (STAGE + '  - {at: llm:6, keep: «0.6, score: random}', 'stages[1].keep: keep rises with depth: 3/5 after 1/2'),
        (STAGE + '  - {at: «llm:4, keep: 0.1, score: random}', 'stages[1].at: a second stage at llm:4: one per site'),
        (STAGE + '  - {at: «llm:1/2, keep: 0.1, score: random}', 'stages[1].at: a second stage at llm:1/2: one per site'),
        (STAGE + '  - {at: «llm:2, keep: 0.1, score: random}', 'stages[1].at: llm:2 after llm:4: stages go from shallow to deep'),
        (STAGE + '  - {at: «projector, keep: 0.1, score: random}', 'stages[1].at: projector stands after a deeper stage'),
        ('  - {at: llm:2, keep: {to_budget: «0.5}, score: random}\n  - {at: llm:4, keep: 0.5, score: feature_norm}\n', 'stages[0].keep.to_budget: to_budget stands in the last stage'),
        ('  - {at: llm:2, keep: {to_budget: 0.5}, score: random}\n  - {at: llm:3, keep: {to_budget: «0.4}, score: random}', 'stages[1].keep.to_budget: a second to_budget'),
        ('  - «{at: llm:2, keep: 0.5}', 'stages[0]: select: top needs a `score`'),
        ('  - {at: llm:2, keep: 0.5, score: {mix: {weights: {random: «-1, feature_norm: 1}}}}', 'stages[0].score.mix.weights.random: must be at least 0'),
        ('  - {at: llm:2, keep: 0.5, score: {mix: {weights: «{random: 0}}}}', 'stages[0].score.mix.weights: all weights are zero'),
        ('  - {at: llm:2, keep: 0.5, score: {mix: {weights: {«randm: 1}}}}', "stages[0].score.mix.weights.randm: unknown criterion 'randm'"),
        ('  - {at: llm:2, keep: 0.5, score: {mix: {weights: {random: 1}, op: «ad}}}', "must be one of sum, product, max, not 'ad'"),
        ('  - {at: llm:2, keep: 0.5, pick: «[{share: 0.7, score: random}, {share: 0.7, score: random}, {score: random}]}', 'stages[0].pick: the shares sum to 7/5'),
        ('  - {at: llm:2, keep: 0.5, pick: [«{score: random}, {score: random}]}', 'stages[0].pick[0]: only the last pick takes the rest'),
        ('  - {at: llm:2, keep: 0.5, «score: random, pick: [{score: random}]}', "'score' stands in the entries of `pick`"),
        ('  - {at: llm:2, keep: 0.5, score: random, protect: {index: «[1, -1]}}', 'stages[0].protect.index: index is a list of visual positions'),
        ('  - {at: llm:2, keep: 0.5, score: random, protect: {index: «[64]}}', "position 64 is beyond an image's 64 visual tokens"),
        ('  - {at: llm:2, keep: 0.5, score: random, protect: «newline}', "did you mean 'newlines'?"),
        ('  - {at: llm:2, keep: 0.5, score: random, protect: «lost}', "protect is `newlines`, `last` or {index: […]}, not 'lost'; did you mean 'last'?"),
        ('  - {at: llm:2, keep: 0.5, score: random, positions: «compct}', "did you mean 'compact'?"),
        ('  - {along: [2, «9], curve: {linear: {from: 1, to: 0}}, score: random}', 'stages[0].along[1]: llm:9 is beyond the model'),
        ('  - {along: «[5, 2], curve: {linear: {from: 1, to: 0}}, score: random}', 'along goes from shallow to deep'),
        ('  - {along: [2, 5], curve: {linear: «{from: 0, to: 1}}, score: random}', 'keep rises with depth: `to` (1) is above `from` (0)'),
        ('  - {along: [2, 5], curve: {«linar: {from: 1, to: 0}}, score: random}', "stages[0].curve.linar: unknown curve 'linar'"),
        ('  - {along: [2, 5], curve: {linear: {from: 1, «t: 0}}, score: random}', "stages[0].curve.linear.t: unknown key 't'; allowed: from, to"),
        ('  - {along: [2, 5], curve: {«logistics: {}}, score: random}', "unknown curve 'logistics'; available: geometric, linear, logistic, p_sigmoid, steps; did you mean 'logistic'?"),
        ('  - {along: [2, 5], curve: {logistic: {scale: 1, mid: 0.5, slope: «-1}}, score: random}', 'stages[0].curve.logistic.slope: '),
        ('  - {along: [2, 5], curve: {steps: «[[3, 0.5], [4, 0.6]]}, score: random}', 'keep rises with depth: 3/5 at 4 is above 1/2 at 3'),
        ('  - {along: [2, 5], curve: {steps: [[«6, 0.5]]}, score: random}', 'stages[0].curve.steps[0][0]: the step at 6 lies outside'),
        ('  - {along: [2, 5], curve: {p_sigmoid: {low: 0, high: 1, mid: 0.5, slope: «{to_budget: 0.5}}}, score: random}', 'stages[0].curve.p_sigmoid.slope: this number cannot follow from the budget'),
        ('  - {along: [0, 5], curve: {linear: {from: 0.9, to: 0.1}}, score: «llm_attention}', '`layer: prev` at llm:0'),
        ('  - {at: llm:2, keep: «$k, score: random}', 'stages[0].keep: a hole in a fixed policy: $k'),
        ("  - {at: 'llm:«$l', keep: 0.5, score: random}", 'stages[0].at: a hole in a fixed policy: $l'),
        ('  - {at: llm:2, keep: «{float: [0, 1]}, score: random}', 'stages[0].keep: a hole in a fixed policy: {float: …}'),
        ('  - {at: llm:2, keep: «solve, score: random}', 'stages[0].keep: a hole in a fixed policy: solve'),
        ('  - «7', 'stages[0]: a stage is a mapping with the keys'),
        ("  - {at: 'llm:«-1', keep: 0.5, score: random}", "a decoder layer counts from 0, not -1"),
    ],
)  # fmt: skip
def test_mistakes_are_positioned(text: str, expected: str) -> None:
    """`«` in a document stands where the mistake must be said to be."""
    before = (HEAD + text).partition("«")[0]
    place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
    source = parse(HEAD + text.replace("«", ""), "p.yaml")
    try:
        policy = Policy.from_source(source, PARTS)
    except BadInput as error:
        found = list(error.problems)
    else:
        found = [
            source.problem(p.path, p.code, p.message, key=p.key, offset=p.offset)
            for p in problems(policy, PARTS, geometry())
        ]
    right = [p for p in found if expected in f"{p.path}: {p.message}"]
    assert [(p.line, p.column) for p in right] == [place], found
    assert len(found) == 1 or "is missing" in found[0].message, found


def test_a_name_that_is_a_part_is_refused() -> None:
    with pytest.raises(BadInput, match=r"<text>:4:12: criteria.random: 'random' is the name of a criterion already"):
        Policy.from_source(parse(HEAD + STAGE + "criteria: {random: feature_norm}"), PARTS)


@pytest.mark.parametrize("other", ["a", "b"])
def test_a_name_for_a_name_is_refused(other: str) -> None:
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(HEAD + STAGE + f"criteria: {{a: {other}, b: random}}"), PARTS)
    assert (
        str(caught.value)
        == f"<text>:4:15: criteria.a: {other!r} is a name itself; names stand for criteria and their mixes"
        " [nested-names]"
    )


def test_a_mix_of_mixes_is_refused() -> None:
    text = "  - {at: llm:4, keep: 0.5, score: {mix: {weights: {m: 1, random: 1}}}}\ncriteria: {m: {mix: {weights: {random: 1}}}}"
    with pytest.raises(BadInput, match=r"3:52: stages\[0\].score.mix.weights.m: 'm' is a mix itself"):
        Policy.from_source(parse(HEAD + text), PARTS)


def test_a_named_criterion_is_refused_where_it_is_used() -> None:
    text = (
        "  - {at: projector, keep: 0.5, score: last}\n"
        "  - {at: input, keep: 0.4, score: {mix: {weights: {random: 1, last: 1}}}}\n"
        "  - {at: llm:2, keep: 0.3, score: last}\n"
        "criteria: {last: llm_attention}"
    )
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(HEAD + text), PARTS)
    assert [(p.line, p.path) for p in caught.value.problems] == [
        (3, "stages[0].score"), (4, "stages[1].score.mix.weights.last"),
    ]  # fmt: skip
    assert caught.value.problems[0].message == "last: criterion 'llm_attention' is legal at llm, not at projector"


def test_all_mistakes_at_once() -> None:
    text = "  - {at: lm:4, keep: 7, score: random}\n  - {at: llm:2, keep: $x, score: random, group: 1}\nclaim: {}"
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(HEAD + text), PARTS)
    assert [(p.line, p.path) for p in caught.value.problems] == [
        (3, "stages[0].at"), (3, "stages[0].keep"), (4, "stages[1].keep"), (4, "stages[1].group"), (5, "claim"),
    ]  # fmt: skip


def test_a_mistake_in_criteria_hides_none_in_stages_and_brings_none_along() -> None:
    text = (
        "  - {at: llm:2, keep: 0.5, score: bad}\n"
        "  - {at: llm:3, keep: 0.4, score: good, merge: sofd}\n"
        "  - {at: llm:4, keep: 0.3, score: {mix: {weights: {bad: 1, god: 1}}}}\n"
        "  - {at: lm:5, keep: 0.2, score: random}\n"
        "criteria:\n"
        "  bad: {random: 3}\n"
        "  good: {random: {sed: 3}}\n"
        "  third: bad\n"
    )
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(HEAD + text), PARTS)
    assert [(p.line, p.path) for p in caught.value.problems] == [
        (4, "stages[1].merge"), (5, "stages[2].score.mix.weights.god"), (6, "stages[3].at"),
        (8, "criteria.bad.random"), (9, "criteria.good.random.sed"), (10, "criteria.third"),
    ]  # fmt: skip
    assert "did you mean 'good'?" in caught.value.problems[1].message


def test_a_hole_is_one_mistake() -> None:
    text = "  - {at: llm:2, keep: 0.5, score: $x}\n  - {at: llm:3, keep: 0.4, score: a}\ncriteria: {a: $y}"
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(HEAD + text), PARTS)
    assert [p.path for p in caught.value.problems] == ["stages[0].score", "criteria.a"]
    assert all(p.message.startswith("a hole in a fixed policy") for p in caught.value.problems)


def test_a_group_of_heads_is_no_mistake_where_its_criterion_did_not_read_well() -> None:
    text = "  - {at: llm:2, keep: 0.5, score: bad, group: head}\ncriteria: {bad: {llm_attention: each}}"
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(HEAD + text), RegisteredParts())
    assert [p.path for p in caught.value.problems] == ["criteria.bad.llm_attention"]


@pytest.mark.parametrize(("key", "place"), [("criteria: 3", "criteria"), ("criterai: {bad: random}", "criterai")])
def test_where_the_names_of_criteria_are_not_known_none_is_called_unknown(key: str, place: str) -> None:
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(HEAD + "  - {at: llm:2, keep: 0.5, score: bad, merge: sofd}\n" + key), PARTS)
    assert [(p.line, p.path) for p in caught.value.problems] == [(3, "stages[0].merge"), (4, place)]


@pytest.mark.parametrize("data", [None, [], 3, {}, {"schema": "autoprune/space/1", "stages": []}, {"stages": []}])
def test_what_is_no_policy_is_refused(data: Any) -> None:
    with pytest.raises(BadInput):
        Policy.parse(data, PARTS)


def test_resolve_refuses_a_policy_for_a_deeper_model() -> None:
    policy = Policy.parse(
        {"schema": "autoprune/policy/1", "stages": [{"at": "llm:9", "keep": 0.5, "select": "stride"}]}
    )
    with pytest.raises(BadInput, match="beyond the model"):
        resolve(policy, geometry(8), PARTS, 64)
    assert resolve(policy, geometry(10), PARTS, 64).stages[0].layer == 9


def test_a_row_beyond_the_model_is_told_what_the_model_has() -> None:
    stage = {"at": "llm:9", "keep": 0.5, "score": {"llm_attention": {"layer": 9}}}
    policy = Policy.parse({"schema": "autoprune/policy/1", "stages": [stage]}, PARTS)
    site, row = (p.message for p in problems(policy, PARTS, geometry(8)))
    assert site == "llm:9 is beyond the model: its 8 decoder layers are 0 to 7"
    assert row == "the row of layer 9 does not exist yet at llm:9; allowed: prev, own, 0 to 7"
    with pytest.raises(BadInput, match="allowed: prev, own, a layer from 0 to its own"):  # no model is known yet
        Policy.parse({"schema": "autoprune/policy/1", "stages": [{**stage, "at": "llm:8"}]}, PARTS)
