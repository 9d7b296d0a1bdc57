"""The best schedule of every budget is the best there is: every other one was looked at."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest

from autoprune.search.allocation import allocate

INF = float("inf")


def random_cuts(seed: int) -> tuple[np.ndarray, list[int]]:
    """What cuts cost [layers, levels, levels], some for nothing, some out of reach, and units."""
    rng = np.random.default_rng(seed)
    layers, levels = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    cut = rng.random((layers, levels, levels)) * rng.integers(0, 2, (layers, levels, levels))
    cut[rng.random(cut.shape) < 0.1] = INF
    return cut, sorted(rng.integers(0, 9, levels).tolist(), reverse=True)


def cost(cut: np.ndarray, path: tuple[int, ...]) -> float:
    """What a schedule costs, by the definition."""
    steps = zip((0, *path), path, strict=False)
    return sum(cut[layer, before, level] for layer, (before, level) in enumerate(steps) if level != before)


def sums(damage: np.ndarray) -> np.ndarray:
    """Cuts that cost the difference of two levels' damage [layers, levels]."""
    return damage[:, None, :] - damage[:, :, None]


@pytest.mark.parametrize("seed", range(60))
def test_no_schedule_of_the_same_budget_is_better(seed):
    cut, units = random_cuts(seed)
    layers, levels, _ = cut.shape
    every = list(combinations_with_replacement(range(levels), layers))
    most = layers * units[0]
    found = allocate(cut, units, most)
    for budget in range(most + 1):
        allowed = [cost(cut, path) for path in every if sum(units[j] for j in path) <= budget]
        best = min(allowed, default=INF)
        path = found.levels(budget)
        assert found.damage(budget) == pytest.approx(best)
        assert (path is None) == (best == INF)
        if path is not None:
            assert path in every
            assert sum(units[j] for j in path) <= budget
            assert cost(cut, path) == pytest.approx(best)


def test_of_equals_the_cheapest():
    damage = np.array([[0.0, 0.0, 1.0]] * 4)
    assert allocate(sums(damage), [4, 2, 1], 16).levels(16) == (1, 1, 1, 1)


def test_budgets_beyond_every_schedule_are_as_good_as_the_largest():
    found = allocate(sums(np.array([[0.0, 1.0]] * 3)), [2, 1], 6)
    assert found.levels(100) == found.levels(6) == (0, 0, 0)
    assert found.levels(-1) is None


@pytest.mark.parametrize("units", [[3, 4], [3]])
def test_units_belong_to_levels_and_never_rise(units):
    with pytest.raises(ValueError, match="2 levels need as many units"):
        allocate(np.zeros((2, 2, 2)), units, 6)


def test_a_model_of_32_layers_has_its_front_of_budgets_from_one_table():
    """As in practice: damage convex in the keep and fading with depth; each budget's schedule is better than the best
    single cut of the same budget."""
    layers, levels = 32, 12
    units = [round(200 * 0.05 ** (j / (levels - 1))) for j in range(levels)]
    keep = np.array(units) / units[0]
    fade = np.exp(-np.arange(layers) / 8)[:, None]
    damage = fade * (1 / keep - 1)[None, :]
    most = layers * units[0]
    found = allocate(sums(damage), units, most)
    for budget in range(most // 10, most, most // 10):
        cuts = [
            damage[layer, j]
            for layer in range(layers)
            for j in range(levels)
            if layer * units[0] + (layers - layer) * units[j] <= budget
        ]
        assert found.damage(budget) <= min(cuts) + 1e-9
    assert sum(found.damage(b) < found.damage(b - most // 10) for b in range(2 * (most // 10), most, most // 10)) >= 7
