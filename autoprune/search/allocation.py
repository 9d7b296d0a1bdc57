"""The best schedule for every budget at once, where what every cut costs is known: a dynamic programme, exact.

`cut[l, i, j]` is what it costs to go from level i to level j at layer l. Level 0 is everything that is there; levels
never go back, and to stay at one costs nothing. Each layer spends `units[j]`, a whole number. What is minimised is the
sum of the cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from autoprune.search.statistics import Array

Levels = tuple[int, ...]
Whole = NDArray[np.int16]


@dataclass(frozen=True)
class Allocation:
    """Every budget's best schedule. `cost[j, s]`: the least damage of those that end at level j and spend exactly s;
    `came[l, j, s]`: the level before layer l of the one that stands at j after it and has spent s, -1 for none."""

    units: tuple[int, ...]
    cost: Array
    came: Whole

    @property
    def most(self) -> int:
        """The largest budget that was looked at."""
        return int(self.cost.shape[1]) - 1

    @cached_property
    def _spent(self) -> list[int]:
        """Per budget, what its best schedule spends: the least damage first, then the least spent; -1 for none."""
        best, at, found = np.inf, -1, []
        for spent, damage in enumerate(self.cost.min(axis=0)):
            if damage < best:
                best, at = damage, spent
            found.append(at)
        return found

    def damage(self, budget: int) -> float:
        """What the best schedule of at most so many units costs; infinite where there is none."""
        spent = self._at(budget)
        return float(self.cost[:, spent].min()) if spent >= 0 else float("inf")

    def levels(self, budget: int) -> Levels | None:
        """The best schedule of at most so many units, the cheapest of equals: each layer's level; None for none."""
        spent = self._at(budget)
        if spent < 0:
            return None
        level, path = int(self.cost[:, spent].argmin()), []
        for came in reversed(self.came):
            path.append(level)
            level, spent = int(came[level, spent]), spent - self.units[level]
        return tuple(reversed(path))

    def _at(self, budget: int) -> int:
        return -1 if budget < 0 else self._spent[min(budget, self.most)]


def allocate(cut: Array, units: Sequence[int], most: int) -> Allocation:
    """Solve for all budgets up to `most` units.

    cut: [layers, levels, levels]; only entries above the diagonal are read, infinite ones are never taken. units: of
    each level, never rising. Time goes with layers x levels^2 x most, memory with layers x levels x most.
    """
    layers, levels, _ = cut.shape
    if len(units) != levels or any(a < b for a, b in pairwise(units)):
        raise ValueError(f"{levels} levels need as many units, never rising, not {tuple(units)}")
    cost = np.full((levels, most + 1), np.inf)
    cost[0, 0] = 0.0
    came = np.full((layers, levels, most + 1), -1, dtype=np.int16)
    for layer in range(layers):
        cost, came[layer] = _next(cost, cut[layer], units)
    return Allocation(tuple(units), cost, came)


def _next(cost: Array, cut: Array, units: Sequence[int]) -> tuple[Array, Whole]:
    """One layer more: come to each level from the best of those before, or stay."""
    after, came = np.full_like(cost, np.inf), np.full(cost.shape, -1, dtype=np.int16)
    for level, unit in enumerate(units):
        end = max(0, cost.shape[1] - unit)
        step = np.append(cut[:level, level], 0.0)[:, None]
        reached = cost[: level + 1, :end] + step
        origin = reached.argmin(axis=0)
        best = np.take_along_axis(reached, origin[None], axis=0)[0]
        after[level, unit:] = best
        came[level, unit:] = np.where(np.isfinite(best), origin, -1)
    return after, came
