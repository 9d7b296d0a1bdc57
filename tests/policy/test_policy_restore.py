"""Counts, order and canonical form of policies whose tokens come back."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from policy_fakes import geometry

from autoprune.document.yaml import parse
from autoprune.errors import BadInput
from autoprune.policy.budget import budget, counts, entering, fractional_budget, lengths, steps_of
from autoprune.policy.canonical import digest, from_json, resolve, to_json
from autoprune.policy.document import Policy
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.policy.scale import at_budget
from autoprune.policy.space import Space
from autoprune.pruning.lookup import RegisteredParts

PARTS = RegisteredParts()
PARK: dict[str, Any] = {"at": "llm:1", "keep": "1/4", "select": "stride", "merge": "park"}
BACK: dict[str, Any] = {"at": "llm:4", "keep": "3/4", "select": "stride", "restore": "scattered"}
LAST: dict[str, Any] = {"at": "llm:6", "keep": "1/8", "select": "stride"}
RULE = {"rule": {"threshold": {"above": 0.5, "of": "value"}}}


def policy(*stages: dict[str, Any]) -> Policy:
    return Policy.parse({"schema": "autoprune/policy/1", "stages": list(stages)}, PARTS)


def bound(*stages: dict[str, Any], tokens: int | None = 64) -> ResolvedPolicy:
    return resolve(policy(*stages), geometry(), PARTS, tokens)


@pytest.mark.parametrize("tokens", [64, None])
def test_what_was_parked_counts_again_where_it_comes_back(tokens: int | None) -> None:
    made = bound(PARK, BACK, LAST, tokens=tokens)
    assert counts(made, 64) == (16, 48, 8)
    assert entering(made, 64) == (64, 64, 48)
    assert lengths(made, 64) == (64, 16, 16, 16, 48, 48, 8, 8)
    spent = Fraction(64 + 3 * 16 + 2 * 48 + 2 * 8, 8 * 64)
    assert budget([lengths(made, 64)], [64], 8) == float(spent)
    if tokens is None:
        assert fractional_budget(steps_of(made), 8) == spent
        assert counts(made, 7) == (2, 5, 1)


@pytest.mark.parametrize("tokens", [64, None])
def test_only_what_was_parked_comes_back(tokens: int | None) -> None:
    """A quarter is dropped for good between."""
    dropping = {"at": "llm:2", "keep": {"of_current": "1/2"}, "select": "stride"}
    made = bound({**PARK, "keep": "1/2"}, dropping, {**BACK, "keep": {"of_current": 1}}, tokens=tokens)
    assert counts(made, 64) == (32, 16, 48)
    again = bound(PARK, {**BACK, "merge": "park"}, {**LAST, "keep": "1/2", "restore": "parked"}, tokens=tokens)
    assert counts(again, 64) == (16, 48, 32)
    assert entering(again, 64) == (64, 64, 64)


def test_a_budget_is_met_by_what_stays_after_coming_back() -> None:
    made = bound(PARK, {**BACK, "keep": {"to_budget": "1/2"}}, tokens=None)
    assert counts(made, 64) == (16, 36)
    assert sum(lengths(made, 64)) == 64 + 3 * 16 + 4 * 36 == 8 * 64 // 2
    scaled = at_budget(policy(PARK, BACK, LAST), Fraction(1, 3), geometry())
    run = resolve(scaled, geometry(), PARTS, 64)
    assert Fraction(1, 3) - Fraction(1, 50) < Fraction(sum(lengths(run, 64)), 8 * 64) <= Fraction(1, 3)
    assert len(run.stages) == 3


def test_documents_and_canonical_forms_round_trip() -> None:
    made = policy(PARK, BACK, LAST)
    assert Policy.parse(made.dump(), PARTS) == made
    assert Policy.from_source(parse(made.to_yaml()), PARTS) == made
    for tokens in (64, None):
        run = bound(PARK, BACK, LAST, tokens=tokens)
        assert from_json(to_json(run)) == run
        assert [s.restore for s in run.stages] == [None, "scattered", None]


@pytest.mark.parametrize("tokens", [64, None])
def test_equal_effects_share_one_digest(tokens: int | None) -> None:
    def of(*stages: dict[str, Any]) -> str:
        return digest(bound(*stages, tokens=tokens))

    assert of(PARK, LAST) == of({**PARK, "merge": "drop"}, LAST)
    assert of(PARK, {**BACK, "keep": 1}) == of(PARK, {**BACK, "keep": {"of_current": 1}, "merge": "nearest"})
    assert of(PARK, BACK, LAST) != of({**PARK, "merge": "drop"}, {**BACK, "keep": "1/4", "restore": None}, LAST)
    assert of(PARK, BACK) != of(PARK, {**BACK, "restore": "parked"})
    idle = {**PARK, "keep": 1}
    assert of(idle, BACK) == of({**BACK, "restore": None})


@pytest.mark.parametrize(
    ("stages", "path", "message"),
    [
        ((PARK, {**BACK, "restore": None}), "stages[1].keep", "keep rises with depth: 3/4 after 1/4"),
        ((PARK, BACK, {**LAST, "keep": "7/8"}), "stages[2].keep", "keep rises with depth: 7/8 after 3/4"),
        (
            ({**PARK, "at": "projector", "merge": "drop", "keep": "1/2"}, PARK, {**BACK, "keep": "3/5"}),
            "stages[2].keep",
            "keep rises with depth: 3/5 after 1/2",
        ),
        ((BACK,), "stages[0].restore", "no stage before has anything to restore"),
        (
            ({**PARK, "score": "random", "keep": RULE}, BACK, {**LAST, "keep": {"to_budget": 0.5}}),
            "stages[2].keep.to_budget",
            "what a count rule has parked",
        ),
        ((PARK, {**BACK, "at": "llm:2"}, BACK), "stages[2].restore", "no stage before has anything to restore"),
    ],
)  # fmt: skip
def test_what_cannot_come_back_is_said(stages: tuple[dict[str, Any], ...], path: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        policy(*stages)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert message in problem.message


def test_a_sampled_keep_is_cut_to_what_is_there_when_all_is_back() -> None:
    hole = {"float": [0.05, 0.5]}
    space = Space.parse(
        {
            "schema": "autoprune/space/1",
            "stages": [{**PARK, "keep": hole}, {**BACK, "keep": 0.8}, {**LAST, "keep": {"float": [0.1, 0.9]}}],
        },
        PARTS,
    ).bind(geometry())
    names = [p.name for p in space.parameters]
    made = space.fill(dict(zip(names, (0.2, 0.9), strict=True)))
    assert [stage["keep"] for stage in made.dump()["stages"]] == [0.2, 0.8, 0.8]
