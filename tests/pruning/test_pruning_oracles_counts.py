"""How many tokens stay, against loops written from the design: K, shares of picks, groups; budgets, curves; mixes."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_worlds import world
from oracles import amounts, schedules
from oracles.basics import min_max, softmax
from pruning_support import IMAGE, stage

from autoprune.policy.budget import Infeasible, counts, split
from autoprune.policy.curves import CurveSpec, Solve, Span, build
from autoprune.policy.expand import curve_steps
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.grouping import allocate
from autoprune.pruning.mixing import combine
from autoprune.pruning.session import Session

FRACTIONS = st.fractions(min_value=0, max_value=1, max_denominator=1000)


def resolved(*keeps: tuple[int, str, Fraction], depth: int = 12) -> ResolvedPolicy:
    return ResolvedPolicy(tuple(stage(layer, value, kind=kind) for layer, kind, value in keeps), depth)


@settings(max_examples=50)
@given(FRACTIONS, FRACTIONS, st.integers(1, 3000))
def test_keep(first: Fraction, second: Fraction, n: int) -> None:
    k = amounts.keep(first, n)
    then = amounts.keep(second, k)
    assert counts(resolved((2, "fraction", first), (5, "of_current", second)), n) == (k, then)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 500))
def test_picks_share_by_largest_remainder(weights: list[int], total: int) -> None:
    whole = sum(weights) or 1
    shares = [Fraction(w, whole) for w in weights]
    if sum(weights):
        assert split(shares, total) == amounts.largest_remainder(total, shares)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), min_size=1, max_size=7), st.data())
def test_groups_share_by_largest_remainder(groups: list[tuple[int, int]], data: st.DataObject) -> None:
    """Weights and sizes of groups; what a full group cannot take goes to the others. Ties to the lower group."""
    weights, sizes = [w for w, _ in groups], [s for _, s in groups]
    total = data.draw(st.integers(0, sum(sizes)))
    found = allocate(torch.tensor([total]), torch.tensor([sizes]), torch.tensor([weights]))[0].tolist()
    assert found == amounts.largest_remainder(total, weights, sizes)


def test_equal_remainders_go_to_the_lower_group() -> None:
    """2/3, 5/3 and 17/3: two are left over, and in floating point the last two remainders look larger."""
    found = allocate(torch.tensor([8]), torch.tensor([[9, 9, 9]]), torch.tensor([[2, 5, 17]]))
    assert found[0].tolist() == amounts.largest_remainder(8, [2, 5, 17]) == [1, 2, 5]


@settings(max_examples=100)
@given(FRACTIONS, FRACTIONS, st.integers(0, 5), st.integers(6, 11), st.integers(1, 40))
def test_to_budget_is_the_largest_count_that_fits(b: Fraction, f: Fraction, first: int, last: int, n: int) -> None:
    before = [(first, amounts.keep(f, n))] if f else []
    best = amounts.to_budget(n, 12, before, last, b)
    keeps = [(first, "fraction", f)] if f else []
    policy = resolved(*keeps, (last, "to_budget", b))
    if best == -1:
        with pytest.raises(Infeasible):
            counts(policy, n)
    else:
        current = before[0][1] if before else n
        assert counts(policy, n)[-1] == (current if best is None else min(best, current))


def test_the_engine_runs_the_counts_of_the_formula() -> None:
    """Layer by layer, on a padded batch of pictures of several sizes."""
    place = world("qwen2_vl")
    stages = (stage(1, "2/3"), stage(3, "1/2", kind="of_current"), stage(4, "1/2", kind="to_budget"))
    with Session(place.made, ResolvedPolicy(stages, 6)) as session, torch.no_grad():
        place.made(**place.batch, use_cache=False)
        lengths = session.run.lengths
    for b, alone in enumerate(place.singles):
        n = int((alone["input_ids"] == IMAGE).sum())
        first = amounts.keep(Fraction(2, 3), n)
        before = [(1, first), (3, amounts.keep(Fraction(1, 2), first))]
        last = amounts.to_budget(n, 6, before, 4, Fraction(1, 2))
        done = [*before, (4, before[-1][1] if last is None else last)]
        expected = [min([n, *(k for at, k in done if at <= layer)]) for layer in range(6)]
        assert [layer[b] for layer in lengths] == expected


# --------------------------------------------------------------------------------------------------------- curves
@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        (
            "p_sigmoid",
            {"low": 0.05, "high": 1, "mid": 0.4, "slope": 8},
            schedules.p_sigmoid(range(2, 31), 0.05, 1, 0.4, 8),
        ),
        ("linear", {"from": 1, "to": "1/8"}, amounts.linear(range(2, 31), 1, 1 / 8)),
        ("geometric", {"ratio": "1/2", "every": 8}, amounts.geometric(range(2, 31), 0.5, 8)),
    ],
)
def test_curves(name: str, params: dict[str, Any], expected: list[float]) -> None:
    curve, span = build(CurveSpec(name, params)), Span(2, 30, 32)
    assert [float(curve.keep(layer, span)) for layer in range(2, 31)] == pytest.approx(expected, abs=1e-6)


def test_geometric_is_pyramid_drop() -> None:
    steps = curve_steps(CurveSpec("geometric", {"ratio": "1/2", "every": 8}), Span(8, 24, 32), [], 576)
    found = [amounts.keep(Fraction(1), 576)] * 32
    for layer, keep in steps:
        found[layer:] = [amounts.keep(keep.value, 576)] * (32 - layer)
    assert found == schedules.pyramid_drop(576, 32, [8, 16, 24])


@pytest.mark.parametrize("slope", [0.5, 8, 20])
@pytest.mark.parametrize("budget", ["1/9", "1/3", "3/4"])
def test_p_sigmoid_at_a_budget(budget: str, slope: float) -> None:
    depth, b = 28, Fraction(budget)
    spec = CurveSpec("p_sigmoid", {"low": 0.02, "high": 1, "mid": None, "slope": slope}, Solve(("mid",), b))
    expected = schedules.p_sigmoid_to_budget(range(depth), 0.02, 1, slope, float(b))
    try:
        steps = curve_steps(spec, Span(0, depth - 1, depth), [], None)
    except Infeasible:
        assert not -1 <= _mid(expected, slope) <= 2  # outside what a document may say
        return
    found, at = [Fraction(1)] * depth, dict(steps)
    for layer in range(depth):
        found[layer] = at[layer].value if layer in at else found[layer - 1]
    assert sum(found) <= b * depth
    if -1 <= _mid(expected, slope) <= 2:
        assert [float(f) for f in found] == pytest.approx(expected, abs=2e-5)


def _mid(rates: Sequence[float], slope: float) -> float:
    """Where the curve that starts with these rates stands: rate 0 is low + (high - low) / (1 + exp(-slope mid))."""
    share = (rates[0] - 0.02) / 0.98
    return math.log(share / (1 - share)) / slope if 0 < share < 1 else math.inf


# ---------------------------------------------------------------------------------------------------------- mixes
def ranks(values: Sequence[float]) -> list[float]:
    """The share of tokens that are not better, so equal ones are equal."""
    return [sum(other <= v for other in values) / len(values) for v in values]


def to_one(values: Sequence[float]) -> list[float]:
    positive = [max(v, 0.0) for v in values]
    return [v / sum(positive) for v in positive]


NORMALISED: dict[str, Any] = {"rank": ranks, "minmax": min_max, "softmax": softmax, "sum": to_one, "none": list}


@pytest.mark.parametrize("normalise", sorted(NORMALISED))
@pytest.mark.parametrize("op", ["sum", "product", "max"])
def test_mixes(normalise: str, op: str) -> None:
    """Padding and protected tokens are no part of it; samples of a batch know nothing of each other."""
    dice = random.Random(4)
    weights, counted = [0.5, 0.3, 0.2], [7, 10, 4]
    rows = [[[dice.uniform(0.1, 2) for _ in range(n)] for n in counted] for _ in weights]
    rows[0][1][3] = rows[0][1][5]
    candidates = torch.zeros(3, 10, dtype=torch.bool)
    terms = [(w, torch.full((3, 10), float("nan"))) for w in weights]
    for b, n in enumerate(counted):
        candidates[b, :n] = True
        for (_, scores), given_rows in zip(terms, rows, strict=True):
            scores[b, :n] = torch.tensor(given_rows[b])
    found = combine(terms, candidates, normalise, op)  # type: ignore[arg-type]
    for b, n in enumerate(counted):
        scaled = [NORMALISED[normalise](part[b]) for part in rows]
        for i in range(n):
            values = [part[i] for part in scaled]
            if op == "product":
                expected = 1.0
                for w, v in zip(weights, values, strict=True):
                    expected *= v**w
            else:
                weighted = [w * v for w, v in zip(weights, values, strict=True)]
                expected = sum(weighted) if op == "sum" else max(weighted)
            assert float(found[b, i]) == pytest.approx(expected, rel=1e-5, abs=1e-6)
