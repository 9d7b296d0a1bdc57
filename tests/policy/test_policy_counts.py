"""`keep: {rule: …}` in documents: read, written, refused, bound to a model, and brought to a budget."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from policy_fakes import geometry

from autoprune.document.yaml import parse
from autoprune.errors import BadInput
from autoprune.policy.budget import counts, fractional_budget, lengths
from autoprune.policy.canonical import digest, from_json, resolve, to_json
from autoprune.policy.document import Policy, Stage
from autoprune.policy.scale import at_budget
from autoprune.pruning.lookup import RegisteredParts

PARTS = RegisteredParts()
HALF = Fraction(1, 2)
NORM = {"score": "feature_norm"}


def document(*stages: dict[str, Any]) -> Policy:
    return Policy.parse({"schema": "autoprune/policy/1", "stages": list(stages)}, PARTS)


def stage(at: str, keep: Any, **more: Any) -> dict[str, Any]:
    return {"at": at, "keep": keep, **NORM, **more}


@pytest.mark.parametrize(
    "keep",
    [
        {"rule": "elbow"},
        {"rule": {"outlier": {"method": "lof"}}, "most": 0.5},
        {"rule": {"threshold": {"above": 1}}, "most": 0.5, "least": 0.125},
        {"rule": "elbow", "fit": 0.25},
        {"rule": "elbow", "fit": {"to_budget": "1/3"}},
    ],
)
def test_a_rule_round_trips(keep: Any) -> None:
    made = document(stage("llm:2", keep))
    assert made.dump()["stages"][0]["keep"] == keep
    assert Policy.parse(made.dump(), PARTS) == made
    resolved = resolve(made, geometry(8, 64), PARTS, 64)
    assert from_json(to_json(resolved)) == resolved


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{rule: elbo}", "unknown count rule 'elbo'; known: "),
        ("{rule: elbo}", "threshold; did you mean 'elbow'?"),
        ("{rule: {outlier: {methd: lof}}}", "did you mean 'method'"),
        ("{rule: {outlier: {neighbours: 3}}}", "`neighbours` belongs to `method: lof`"),
        ("{rule: elbow, most: 1/4, least: 1/2}", "`most` is above 0 and at least `least` (1/2), not 1/4"),
        ("{rule: elbow, most: 0}", "`most` is above 0"),
        ("{rule: elbow, fit: 1/4, most: 1/2}", "'most' bounds what a rule decides; with `fit` the count is fixed"),
        ("{rule: elbow, fit: {rule: elbow}}", "`fit` is a keep without a rule"),
        ("{rule: elbow, mots: 1/2}", "did you mean 'most'"),
        ("{rul: elbow}", "did you mean 'rule'"),
    ],
)  # fmt: skip
def test_mistakes_stand_where_they_are_written(written: str, message: str) -> None:
    text = f"schema: autoprune/policy/1\nstages:\n  - {{at: llm:2, score: feature_norm, keep: {written}}}\n"
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(text, "p.yaml"), PARTS)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert problem.line == 3
    assert problem.column > text.split("\n")[2].index("keep")


def test_a_rule_needs_the_scores_it_reads() -> None:
    with pytest.raises(BadInput, match="rule elbow reads the scores of the first pick: it needs a `score`"):
        document({"at": "llm:2", "keep": {"rule": "elbow"}, "select": "stride"})
    document({"at": "llm:2", "keep": {"rule": "gate"}, "select": "stride"})
    with pytest.raises(BadInput, match="'gate' is legal at llm, not at projector"):
        document(stage("projector", {"rule": "gate"}))
    with pytest.raises(BadInput, match=r"group: split rule needs a `keep: \{rule: …\}`"):
        document(stage("llm:2", 0.5, group={"tile": {"split": "rule"}}))


def test_fit_matters_only_where_groups_share_by_the_rule() -> None:
    def of(*stages: dict[str, Any]) -> str:
        return digest(resolve(document(*stages), geometry(8, 64), PARTS, 64))

    fit, tile = {"rule": "elbow", "fit": "1/4"}, {"tile": {"split": "rule"}}
    assert of(stage("llm:2", fit)) == of(stage("llm:2", "1/4"))
    assert of(stage("llm:2", fit, group=tile)) != of(stage("llm:2", "1/4", group="tile"))
    assert of(stage("llm:2", {"rule": "elbow"})) != of(stage("llm:2", {"rule": "elbow", "most": "1/2"}))


def test_counts_are_bounds_until_a_run_has_decided() -> None:
    made = document(stage("llm:2", {"rule": "elbow", "most": "1/2"}), stage("llm:4", {"of_current": "1/2"}))
    resolved = resolve(made, geometry(8, 64), PARTS, 64)
    assert resolved.adaptive
    assert counts(resolved, 64) == (32, 16)
    assert counts(resolved, 64, 0, (10, 0)) == (10, 5)
    assert counts(resolved, 64, 0, (50, 0)) == (32, 16)
    assert counts(resolved, 64, 7, (3, 0)) == (7, 7)
    assert lengths(resolved, 64, 0, (10, 0)) == (64, 64, 10, 10, 5, 5, 5, 5)


def test_a_rule_leaves_what_a_later_budget_needs() -> None:
    made = document(stage("llm:2", {"rule": "elbow"}), stage("llm:4", {"to_budget": "3/8"}))
    resolved = resolve(made, geometry(8, 64), PARTS, 64)
    for decided in (64, 30, 5):
        first, last = counts(resolved, 64, 0, (decided, 0))
        spent = 2 * 64 + 2 * first + 4 * last
        assert spent <= 3 * 64  # 3/8 of 8 layers
        assert last == first or spent + 4 > 3 * 64
    assert counts(resolved, 64) == counts(resolved, 64, 0, (64, 64))


@pytest.mark.parametrize("budget", ["1/2", "1/3", "0.3"])
def test_a_policy_with_rules_is_brought_to_a_budget(budget: str) -> None:
    wanted, bound = Fraction(budget), geometry(8, 64)
    one = at_budget(document(stage("llm:1", {"rule": "elbow"}, group={"tile": {"split": "rule"}})), wanted, bound)
    (only,) = one.stages
    assert isinstance(only, Stage)
    assert (only.keep.kind, only.keep.value) == ("to_budget", wanted)
    assert only.keep.rule is not None
    several = document(stage("projector", "3/4"), stage("llm:1", {"rule": "elbow"}), stage("llm:2", {"rule": "elbow"}))
    made = resolve(at_budget(several, wanted, bound), bound, PARTS, 64)
    assert made.adaptive
    for decided in ((0, 60, 0), (0, 20, 0)):
        spent = sum(lengths(made, 64, 0, decided))
        assert spent <= wanted * 8 * 64


def test_without_n_a_rule_counts_with_its_bound() -> None:
    made = resolve(document(stage("llm:2", {"rule": "elbow", "most": "1/2"})), geometry(8, None), PARTS)
    assert fractional_budget([(s.layer, s.keep) for s in made.stages], 8) == Fraction(2 + 3, 8)


def test_what_stands_in_for_a_class_token_has_one_spelling() -> None:
    def of(score: dict[str, Any], has_cls: bool) -> str:
        bare = geometry(8, 64)
        model = replace(bare, vision=replace(bare.vision, has_cls=has_cls))
        made = document({"at": "projector", "keep": 0.5, "score": {"encoder_attention": score}})
        return digest(resolve(made, model, PARTS, 64))

    either = {"from": "cls", "without_cls": "query"}
    assert of(either, True) == of({"from": "cls"}, True)
    assert of(either, False) == of({"from": "query"}, False)


def rule(**bounds: Any) -> dict[str, Any]:
    return {"rule": "elbow", **bounds}


GATE = {"at": "llm:6", "keep": {"rule": "gate"}, "select": "stride"}


@pytest.mark.parametrize("budget", ["3/5", "2/5", "1/4", "3/20"])
@pytest.mark.parametrize(
    "stages",
    [
        [stage("projector", rule(most="1/4")), stage("llm:4", {"of_current": "1/2"})],
        [stage("projector", rule(most="1/4")), stage("llm:4", rule(most="1/8"))],
        [stage("projector", rule(least="1/2")), stage("llm:4", "1/8")],
        [stage("projector", rule(most="1/4")), GATE],
        [stage("projector", "1/2"), stage("llm:1", {"of_current": "1/10"}), stage("llm:4", {"of_current": "1/2"})],
        [stage("projector", rule(most="1/4")), {**NORM, "along": [2, 6], "curve": {"steps": [[2, 0.2], [6, 0.1]]}}],
    ],
)
def test_bounds_do_not_keep_a_budget_out_of_reach(stages: list[dict[str, Any]], budget: str) -> None:
    wanted, bound = Fraction(budget), geometry(8, 576)
    made = resolve(at_budget(document(*stages), wanted, bound), bound, PARTS, 576)
    spent = Fraction(sum(lengths(made, 576)), 8 * 576)
    assert 0 <= wanted - spent < Fraction(1, 576)


def test_rules_go_on_deciding_where_their_bounds_leave_room() -> None:
    def keeps(budget: str) -> list[Any]:
        made = document(stage("projector", rule(most="1/2", least="1/8")), stage("llm:4", {"of_current": "1/2"}))
        return [s["keep"] for s in at_budget(made, Fraction(budget), geometry(8, 576)).dump()["stages"]]

    assert keeps("2/5") == [rule(most=0.5, least=0.125), {"to_budget": 0.4}]
    assert keeps("3/5") == [rule(fit=0.8), {"to_budget": 0.6}]  # at most 1/2 of N: as 1/2 and 1/4 are scaled
    assert keeps("1/20") == [rule(fit=0.0665), {"to_budget": 0.05}]  # 1/8 for four of eight layers is above it


def test_a_gate_stays_a_gate_where_a_rule_before_it_is_scaled() -> None:
    first, last = at_budget(document(stage("projector", rule(most="1/4")), GATE), HALF, geometry(8, 576)).stages
    assert isinstance(first, Stage)
    assert isinstance(last, Stage)
    assert (first.keep.kind, last.keep.kind) == ("fraction", "rule")


BEHIND = {"score": "feature_norm", "count": "elbow"}


@pytest.mark.parametrize(
    ("keep", "first", "others", "message"),
    [
        ("1/2", {}, [BEHIND], "count: the first pick's is `keep: {rule: …}`, which later ones stand beside"),
        ({"rule": "elbow"}, {"count": "elbow"}, [BEHIND], "count: the first pick's is `keep: {rule: …}`"),
        ({"rule": "elbow"}, {}, [{"share": "1/4", **NORM}, BEHIND], "where one pick has a `count`, all but the first"),
        ({"rule": "elbow"}, {"dilate": "cross"}, [BEHIND], "picks that overlap or dilate share one count"),
        ({"rule": "elbow"}, {}, [{**BEHIND, "count": "elbwo"}], "unknown count rule 'elbwo'"),
        ({"rule": "elbow"}, {}, [{**BEHIND, "count": {"logistic": {"slope": 1}}}], "shares a budget among layers"),
        ({"rule": "elbow"}, {}, [{"select": "stride", "count": "elbow"}], "elbow reads the pick's scores"),
    ],
)
def test_counts_of_picks_that_make_no_sense(keep: Any, first: dict[str, Any], others: list[Any], message: str) -> None:
    stages = [{"at": "llm:2", "keep": keep, "pick": [{"share": "1/2", **NORM, **first}, *others]}]
    with pytest.raises(BadInput) as caught:
        document(*stages)
    assert any(message in p.message for p in caught.value.problems), caught.value.problems


def test_a_counted_pick_needs_no_share_and_a_fixed_count_no_rule() -> None:
    """Neither is in the canonical form; equal effects are one policy."""

    def of(keep: Any, share: str, count: str) -> str:
        pick = [{"share": share, **NORM}, {**NORM, "count": count}]
        return digest(resolve(document({"at": "llm:2", "keep": keep, "pick": pick}), geometry(8, 64), PARTS, 64))

    assert of({"rule": "elbow"}, "1/2", "elbow") == of({"rule": "elbow"}, "1/4", "elbow")
    assert of({"rule": "elbow"}, "1/2", "elbow") != of({"rule": "elbow"}, "1/2", "outlier")
    fixed = {"rule": "elbow", "fit": "1/4"}
    assert of(fixed, "1/2", "elbow") == of(fixed, "1/2", "outlier") != of(fixed, "1/4", "elbow")
