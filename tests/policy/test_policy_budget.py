"""Numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.schedules import autoprune25  # type: ignore[import-not-found,unused-ignore]
from policy_fakes import PARTS, geometry

from autoprune.policy.budget import Infeasible, asked, budget, counts, lengths
from autoprune.policy.canonical import resolve
from autoprune.policy.document import Policy
from autoprune.policy.resolved import Keep, KeepKind, Part, Protect, ResolvedPick, ResolvedPolicy, ResolvedStage

PICK = (ResolvedPick(None, Part("stride")),)


def policy(*stages: tuple[int, KeepKind, Fraction | int], depth: int = 8, protect: Protect = None) -> ResolvedPolicy:
    made = (
        ResolvedStage("llm", layer, Keep(kind, Fraction(v)), PICK, Part("drop"), protect) for layer, kind, v in stages
    )
    return ResolvedPolicy(tuple(made), depth)


@pytest.mark.parametrize(
    ("n", "f", "k"),
    [
        (64, Fraction(1, 2), 32),
        (5, Fraction(1, 2), 3),
        (3, Fraction(1, 6), 1),
        (3, Fraction(1, 100), 1),
        (10, Fraction(0), 0),
        (576, Fraction(49, 500), 56),
    ],
)
def test_k_is_rounded_half_up_and_at_least_one(n: int, f: Fraction, k: int) -> None:
    assert counts(policy((0, "fraction", f)), n) == (k,)


def test_kinds_of_keep_in_a_row() -> None:
    # N = 10: 7 of N, half of 7 = 3.5 -> 4, at most 3 tokens, 0.9 of N is more than there is
    p = policy(
        (0, "fraction", Fraction(7, 10)),
        (2, "of_current", Fraction(1, 2)),
        (4, "tokens", 3),
        (6, "fraction", Fraction(9, 10)),
    )
    assert counts(p, 10) == (7, 4, 3, 3)
    assert lengths(p, 10) == (7, 7, 4, 4, 3, 3, 3, 3)
    assert budget([lengths(p, 10)], [10], 8) == 34 / 80


def test_budget_weighs_samples_by_their_tokens() -> None:
    p = policy((4, "fraction", Fraction(1, 2)))
    # N = 4: 4·4 + 4·2 = 24 of 32; N = 2: 4·2 + 4·1 = 12 of 16; a sample without image adds nothing
    assert budget([lengths(p, n) for n in (4, 2, 0)], [4, 2, 0], 8) == 36 / 48
    assert lengths(p, 0) == (0,) * 8
    assert budget([(0,) * 8], [0], 8) == 1.0


def test_to_budget_is_the_largest_count_that_fits() -> None:
    # L = 8, N = 64, B = 1/4: 128 token-layers. Layers 0, 1 cost 64 each: none left for 6 layers.
    with pytest.raises(Infeasible) as caught:
        counts(policy((2, "to_budget", Fraction(1, 4))), 64)
    assert caught.value.distance == (128 + 6) / 512 - 0.25
    # B = 1/2: 256 - 128 = 128 over 6 layers -> 21 (126), 22 would be 132
    p = policy((2, "to_budget", Fraction(1, 2)))
    assert counts(p, 64) == (21,)
    assert sum(lengths(p, 64)) == 254
    # with 3/4 kept from layer 0: 256 - 4·48 = 64 over 4 layers -> 16
    assert counts(policy((0, "fraction", Fraction(3, 4)), (4, "to_budget", Fraction(1, 2))), 64) == (48, 16)
    # exactly met
    assert counts(policy((0, "to_budget", Fraction(1, 4))), 64) == (16,)


def test_a_budget_that_is_met_already_drops_nothing() -> None:
    assert counts(policy((0, "fraction", Fraction(1, 4)), (4, "to_budget", Fraction(1, 2))), 64) == (16, 16)
    assert counts(policy((0, "fraction", 0), (4, "to_budget", Fraction(1, 2))), 64) == (0, 0)
    assert counts(policy((0, "to_budget", Fraction(1, 2))), 0) == (0,)


def test_protected_positions_count_toward_k_and_stay() -> None:
    p = policy((0, "fraction", Fraction(1, 8)), (4, "tokens", 2))
    assert counts(p, 16, protected=4) == (4, 4)
    assert counts(p, 16, protected=[4, 0]) == (4, 2)
    assert counts(policy((0, "fraction", Fraction(0))), 16, protected=4) == (0,)
    assert counts(policy((0, "tokens", 2), protect=(1, 3, 5, 99)), 16) == (3,)
    assert counts(policy((0, "tokens", 2), protect=(1, 3, 5, 99)), 16, protected=4) == (7,)
    with pytest.raises(Infeasible):
        counts(policy((0, "to_budget", Fraction(1, 8))), 16, protected=3)
    assert counts(policy((0, "tokens", 2), protect="last"), 16) == (2,)
    assert counts(policy((0, "tokens", 2), protect="last"), 16, protected=4) == (5,)
    assert counts(policy((0, "fraction", Fraction(0)), protect="last"), 16) == (0,)
    assert counts(policy((0, "tokens", 2), protect="last"), 0) == (0,)
    with pytest.raises(ValueError, match="1 numbers of protected positions for 2 stages"):
        counts(p, 16, protected=[1])


@given(
    st.integers(1, 300),
    st.integers(2, 40),
    st.fractions(Fraction(1, 50), 1, max_denominator=997),
    st.fractions(0, 1, max_denominator=97),
    st.data(),
)
def test_to_budget_never_overshoots_and_one_more_would(
    n: int, depth: int, b: Fraction, f: Fraction, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, depth - 2))
    p = policy((first, "fraction", f), (data.draw(st.integers(first, depth - 1)), "to_budget", b), depth=depth)
    try:
        k1, k2 = counts(p, n)
    except Infeasible:
        assert n * first + (depth - first) > b * depth * n or p.stages[1].layer > first
        return
    layer = p.stages[1].layer
    spent = sum(lengths(p, n))
    assert k2 <= k1
    assert k2 == k1 or spent <= b * depth * n < spent + depth - layer


def _resolved(stage: Mapping[str, object], depth: int = 8, tokens: int | None = 64) -> ResolvedPolicy:
    made = {"schema": "autoprune/policy/1", "stages": [{"select": "stride", **stage}]}
    return resolve(Policy.parse(made, PARTS), geometry(depth, tokens), PARTS, tokens)


def test_curves_by_hand() -> None:
    def keeps(stage: Mapping[str, object], depth: int) -> list[tuple[int, Fraction]]:
        return [(s.layer, s.keep.value) for s in _resolved(stage, depth, None).stages]

    geometric = {"along": [8, 24], "curve": {"geometric": {"ratio": "1/2", "every": 8}}}
    assert keeps(geometric, 32) == [(8, Fraction(1, 2)), (16, Fraction(1, 4)), (24, Fraction(1, 8))]
    relative = {"along": ["1/4", "3/4"], "curve": {"geometric": {"ratio": 0.5, "every": "1/4"}}}
    assert keeps(relative, 32) == keeps(geometric, 32)
    assert keeps(relative, 8) == [(2, Fraction(1, 2)), (4, Fraction(1, 4)), (6, Fraction(1, 8))]
    linear = {"along": [1, 5], "curve": {"linear": {"from": 1, "to": 0.2}}}
    assert keeps(linear, 8) == [(2, Fraction(4, 5)), (3, Fraction(3, 5)), (4, Fraction(2, 5)), (5, Fraction(1, 5))]
    steps = {"along": [0, 6], "curve": {"steps": [[2, 0.5], ["3/4", ".25"]]}}
    assert keeps(steps, 8) == [(2, Fraction(1, 2)), (6, Fraction(1, 4))]
    # 1/(1 + e^(4·(x - 1/2))) at x = 0, 1/2, 1
    sigmoid = {"along": [2, 4], "curve": {"p_sigmoid": {"low": 0, "high": 1, "mid": 0.5, "slope": 4}}}
    assert keeps(sigmoid, 8) == [(2, Fraction(880797, 10**6)), (3, Fraction(1, 2)), (4, Fraction(119203, 10**6))]
    # min(4/5, 6/5 of the same): 1.056957, 0.6, 0.143044
    logistic = {"along": [2, 4], "curve": {"logistic": {"scale": "6/5", "mid": 0.5, "slope": 4, "most": 0.8}}}
    assert keeps(logistic, 8) == [(2, Fraction(4, 5)), (3, Fraction(3, 5)), (4, Fraction(143044, 10**6))]


def test_a_curve_changes_counts_only_where_k_changes() -> None:
    linear = {"along": [0, 7], "curve": {"linear": {"from": 1, "to": "1/2"}}}
    stages = _resolved(linear, tokens=4).stages
    # f = 1, 13/14, 6/7, 11/14, 5/7, 9/14, 4/7, 1/2 of 4: 4, 4, 3, 3, 3, 3, 2, 2
    assert [(s.layer, s.keep) for s in stages] == [(2, Keep("tokens", Fraction(3))), (6, Keep("tokens", Fraction(2)))]


def test_a_curve_meets_its_budget_with_the_largest_number() -> None:
    def at(b: object) -> dict[str, object]:
        return {"along": [4, 7], "curve": {"steps": [[4, {"to_budget": b}]]}}

    # four layers of 64 are 1/2 of 512; B = 5/8 leaves 64 token-layers for four layers: K = 16
    resolved = _resolved(at("5/8"))
    assert counts(resolved, 64) == (16,)
    exact = _resolved(at("5/8"), tokens=None).stages[0].keep
    assert exact == Keep("fraction", Fraction(1, 4))
    assert _resolved(at(1)).stages == ()
    with pytest.raises(Infeasible) as caught:
        _resolved(at("1/4"))
    assert caught.value.distance == 0.25


@settings(deadline=None, max_examples=50)
@given(st.integers(3, 40), st.integers(8, 600), st.fractions(Fraction(1, 3), Fraction(9, 10), max_denominator=100))
def test_a_solved_sigmoid_stays_below_its_budget_and_is_tight(depth: int, n: int, b: Fraction) -> None:
    sigmoid = {"low": 0, "high": 1, "mid": {"to_budget": str(b)}, "slope": 10}
    resolved = _resolved({"along": [0, depth - 1], "curve": {"p_sigmoid": sigmoid}}, depth, n)
    used = Fraction(sum(lengths(resolved, n)), n * depth)
    # along the curve layers change one token at a time; only values less than 10^-6 apart can change together
    assert b - Fraction(3, n * depth) < used <= b


@pytest.mark.parametrize("slope", [0, 0.25, 0.4, 0.9])
@pytest.mark.parametrize("b", [0.06, 0.25, 0.6])
def test_a_logistic_follows_the_published_curve(slope: float, b: float) -> None:
    """min(1, c / (1 + exp(k (l - x0)))) over all layers, c from the budget (AutoPrune, NeurIPS 2025)."""
    depth, n, x0 = 32, 100_000, 14.9
    curve = {"scale": {"to_budget": b}, "slope": slope * (depth - 1), "mid": x0 / (depth - 1)}
    resolved = _resolved({"along": [0, depth - 1], "curve": {"logistic": curve}}, depth, n)
    expected = autoprune25(depth, 0, x0, slope, 1, b)
    assert [k / n for k in lengths(resolved, n)] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("picks", "total", "expected"),  # (share, overlap, dilate)
    [
        ([("1/3", False, None), (None, False, None)], 10, [3, 7]),  # as `split`
        (
            [("3/10", False, None), ("3/10", True, None), ("1/2", True, None), (None, False, None)],
            288,
            [86, 86, 144, 144],
        ),
        ([("1/10", False, None), ("9/10", True, None), (None, False, None)], 144, [14, 130, 14]),
        ([("27/37", False, None), ("10/37", True, None), (None, False, None)], 237, [173, 64, 64]),
        ([("1/10", False, "cross"), (None, False, None)], 192, [4, 188]),  # HiPrune: 4, 3 and 1 anchors
        ([("1/10", False, "cross"), (None, False, None)], 128, [3, 125]),
        ([("1/10", False, "cross"), (None, False, None)], 64, [1, 63]),
        ([("1/2", False, None), ("1/2", False, "cross"), (None, False, None)], 0, [0, 0, 0]),
    ],
)  # fmt: skip
def test_what_picks_are_asked_for_where_they_overlap_or_dilate(picks: Any, total: int, expected: list[int]) -> None:
    """All but the last their shares; the last the most that those before it can leave."""
    made = [
        ResolvedPick(None, Part("top"), None if s is None else Fraction(s), overlap=o, dilate=d) for s, o, d in picks
    ]
    assert asked(made, total) == expected
