"""Hypervolume against brute force; the curve and its reference point."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from search_support import objective

from autoprune.ports import TrialRecord
from autoprune.search import pareto
from autoprune.search.growth import Growth

GOALS = (objective("cost"), objective("acc", "maximize"))


def by_inclusion_exclusion(points, reference):
    total = 0.0
    for size in range(1, len(points) + 1):
        for chosen in itertools.combinations(points, size):
            sides = [max(0.0, r - max(column)) for r, column in zip(reference, zip(*chosen, strict=True), strict=True)]
            total += (-1) ** (size + 1) * math.prod(sides)
    return total


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_hypervolume_equals_inclusion_exclusion(dimensions, seed):
    rng = np.random.default_rng(seed)
    points = [tuple(p) for p in rng.integers(0, 6, (7, dimensions)).astype(float)]
    reference = (4.5,) * dimensions
    assert pareto.hypervolume(points, reference) == pytest.approx(by_inclusion_exclusion(points, reference))


def test_hypervolume_of_a_large_front_agrees_with_sampling():
    rng = np.random.default_rng(0)
    points = np.abs(rng.normal(size=(40, 3)))
    points = points / np.linalg.norm(points, axis=1, keepdims=True)
    samples = rng.random((20000, 3)) * 1.1
    hit = (samples[:, None] >= points[None]).all(-1).any(1).mean() * 1.1**3
    assert pareto.hypervolume([tuple(p) for p in points], (1.1,) * 3) == pytest.approx(hit, abs=0.03)


def test_points_beyond_the_reference_add_nothing():
    assert pareto.hypervolume([(2.0, 0.0), (0.0, 2.0)], (1.0, 1.0)) == 0.0
    assert pareto.hypervolume([], (1.0, 1.0)) == 0.0


def test_of_equal_points_the_first_stays():
    assert pareto.non_dominated([(1.0, 2.0), (2.0, 1.0), (1.0, 2.0), (2.0, 2.0)]) == [0, 1]


def record(number, cost, acc, origin="trial", state="complete", slack=-1.0, cached=False):
    return TrialRecord(
        number, origin, f"t{number}", state, {}, "", f"d{number}", values={"cost": cost, "acc": acc},
        constraints={"c": slack}, cached=cached,
    )  # fmt: skip


def test_the_curve_counts_feasible_completed_trials():
    records = [
        record(0, 1.0, 0.9, "baseline"),
        record(1, 0.5, 0.4, "reference"),
        record(2, 0.4, 0.8),
        record(3, 0.1, 0.9, slack=0.1),
        record(4, 0.1, 0.9, state="failed"),
        record(5, 0.2, 0.7, cached=True),
        record(6, 0.2, 0.6),
    ]
    reference = pareto.reference_point(records, GOALS)
    assert reference == pytest.approx((1.05, -0.35))
    first = (1.05 - 0.5) * (0.4 - 0.35)
    second = (1.05 - 0.4) * (0.8 - 0.35)
    third = second + (0.4 - 0.2) * (0.7 - 0.35)  # the cached point is part of the curve, but no step of it
    assert pareto.hypervolume_curve(records, GOALS) == pytest.approx([first, second, second, third])
    assert [r.number for r in pareto.search_front(records, GOALS)] == [2, 5]
    assert Growth(GOALS, records).best == {"cost": 0.2, "acc": 0.8}


def test_without_references_the_reference_point_is_a_tenth_beyond_the_baseline():
    assert pareto.reference_point([record(0, 20.0, 0.5, "baseline")], GOALS) == pytest.approx((22.0, -0.4))
    assert pareto.reference_point([], GOALS) is None
    assert pareto.hypervolume_curve([], GOALS) == []


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_the_non_dominated_are_those_by_definition(dimensions):
    rng = np.random.default_rng(dimensions)
    for size in range(30):
        points = [tuple(p) for p in rng.integers(0, 5, (size, dimensions)).tolist()]
        kept = [
            i
            for i, p in enumerate(points)
            if p not in points[:i] and not any(pareto.dominates(other, p) for other in points)
        ]
        assert pareto.non_dominated(points) == kept


def test_what_grows_record_by_record_is_what_all_records_say():
    rng = np.random.default_rng(3)
    records = [record(0, 1.0, 0.9, "baseline")]
    growth = Growth(GOALS, records)
    for number in range(1, 60):
        cost, acc, slack = (float(v) for v in rng.integers(0, 10, 3) / 10)
        records.append(record(number, cost, acc, "reference" if number < 4 else "trial", slack=slack - 0.7))
        growth.add(records[-1])
        front = [pareto.signed(r.values, GOALS) for r in pareto.search_front(records, GOALS)]
        assert sorted(growth.front) == sorted(front)
        assert growth.hypervolume == pytest.approx(pareto.hypervolume(front, pareto.reference_point(records, GOALS)))
