"""The best schedule for every budget at once, where what a layer's cut costs is known: a dynamic programme, exact.

`damage[l, j]` is what it costs to keep only level j from layer l on, level 0 being everything that is there. Tokens
dropped at layer l pay the difference to the level before: damage(j_0, j_1, …) = Σ_l d[l, j_l] - d[l, j_(l-1)], levels
never going back. Each layer spends `units[j]`, a whole number.
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


def allocate(damage: Array, units: Sequence[int], most: int) -> Allocation:
    """Solve for all budgets up to `most` units.

    damage: [layers, levels], the first level 0, never falling from level to level; infinite where a level cannot be
    reached at a layer (then neither can those after it). units: of each level, never rising. Time and memory go with
    layers x levels x most.
    """
    layers, levels = damage.shape
    if len(units) != levels or any(a < b for a, b in pairwise(units)):
        raise ValueError(f"{levels} levels need as many units, never rising, not {tuple(units)}")
    cost = np.full((levels, most + 1), np.inf)
    cost[0, 0] = 0.0
    came = np.full((layers, levels, most + 1), -1, dtype=np.int16)
    for layer in range(layers):
        cost, came[layer] = _next(cost, damage[layer], units)
    return Allocation(tuple(units), cost, came)


def _next(cost: Array, damage: Array, units: Sequence[int]) -> tuple[Array, Whole]:
    """One layer more: stay at a level, or come to it from the best of those before, which has its own damage back."""
    after, came = np.full_like(cost, np.inf), np.full(cost.shape, -1, dtype=np.int16)
    best, source = np.full(cost.shape[1], np.inf), np.full(cost.shape[1], -1, dtype=np.int16)
    for level, unit in enumerate(units):
        reached, origin = cost[level], np.full(cost.shape[1], level, dtype=np.int16)
        if np.isfinite(damage[level]):
            arriving = best + damage[level]
            better = arriving < reached
            reached, origin = np.where(better, arriving, reached), np.where(better, source, origin)
            leaving = cost[level] - damage[level]
            better = leaving < best
            best, source = np.where(better, leaving, best), np.where(better, np.int16(level), source)
        if unit < cost.shape[1]:
            end = cost.shape[1] - unit
            after[level, unit:] = reached[:end]
            came[level, unit:] = np.where(np.isfinite(reached[:end]), origin[:end], -1)
    return after, came
