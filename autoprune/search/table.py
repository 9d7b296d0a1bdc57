"""What dropping tokens costs, layer by layer: a table of one-stage policies, and the schedule that it says is best.

Entry d(l, k) is the damage when from layer l on only k of N stay. A schedule's damage is taken to be the sum of what
its cuts do (as in DOP, one operation at a time, and in ModelOpt's sensitivity table), solved exactly (`allocation`). A
cut at layer l, where k' were and k stay, does the larger of two things. Where all layers rank alike, its tokens are
those between k and k' of one ranking: d(l, k) - d(l, k'). Where the layer has a ranking of its own, which knows nothing
of the ones before, dropping half of what is there is as blind as dropping half of all: d(l, k/k').
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from autoprune.search.allocation import Allocation, allocate
from autoprune.search.schedule import Schedule
from autoprune.search.statistics import Array

if TYPE_CHECKING:
    from collections.abc import Iterable

LEVELS = 12  # keeps that a solved schedule may have; between the measured ones the table is interpolated
RESOLUTION = 1024  # parts of N in which budgets are counted where N is larger, or differs
PLAIN = 256  # … and where N is not known


@dataclass(frozen=True)
class Table:
    """`damage[i, j]`: at `layers[i]`, for `keeps[j]`; the first keep is everything that is there and costs nothing.
    Never falling with j; infinite where nothing is known. Layer 0 is before the language model, with criteria of its
    own, so nothing is interpolated between it and the others."""

    layers: tuple[int, ...]
    keeps: tuple[Fraction, ...]
    damage: Array

    @classmethod
    def of(cls, layers: Sequence[int], keeps: Sequence[Fraction], found: Array) -> Table:
        """From measured entries [layers, keeps], infinite or NaN where there was no answer."""
        if list(layers) != sorted(set(layers)) or list(keeps) != sorted(set(keeps), reverse=True):
            raise ValueError("layers rise and keeps fall")
        return cls(tuple(layers), tuple(keeps), np.array([smoothed(row, keeps) for row in found]))

    def at(self, layers: Iterable[int], keeps: Sequence[Fraction]) -> Array:
        """Damage [layers, keeps] between the entries, for falling keeps: linear in the layer and in 1/keep (the first
        halving harms least, so that the logarithm would not do)."""
        columns = np.array([_between(row, self.keeps, keeps) for row in self.damage])
        free = np.array([keep >= self.keeps[0] for keep in keeps])
        return np.array([np.where(free, 0.0, self._row(layer, columns)) for layer in layers])

    def _row(self, layer: int, columns: Array) -> Array:
        rows = [i for i, place in enumerate(self.layers) if (place == 0) == (layer == 0)]
        if layer in self.layers:
            found: Array = columns[self.layers.index(layer)]
            return found
        result = np.full(columns.shape[1], np.inf)
        for j in range(columns.shape[1]):
            known = [i for i in rows if np.isfinite(columns[i, j])]
            if known:
                result[j] = np.interp(layer, [self.layers[i] for i in known], columns[known, j])
        return np.maximum.accumulate(result)

    def cuts(self, layers: Sequence[int], keeps: Sequence[Fraction]) -> Array:
        """What going from one of these keeps (falling) to another does, [layers, keeps, keeps]: read above the
        diagonal."""
        pairs = [(i, j) for j in range(len(keeps)) for i in range(j)]
        ratios = {(i, j): self.keeps[0] * keeps[j] / keeps[i] for i, j in pairs}
        order = sorted({*keeps, *ratios.values()}, reverse=True)
        place = {keep: n for n, keep in enumerate(order)}
        damage = self.at(layers, order)
        result = np.zeros((len(damage), len(keeps), len(keeps)))
        for (i, j), ratio in ratios.items():
            before, after, alone = (damage[:, place[keep]] for keep in (keeps[i], keeps[j], ratio))
            known = np.isfinite(after)
            result[:, i, j] = np.inf
            result[known, i, j] = np.maximum(after[known] - before[known], alone[known])
        return result

    def of_schedule(self, schedule: Schedule) -> float:
        """The damage that the table foresees."""
        total, before = 0.0, self.keeps[0]
        for layer, keep in schedule.steps:
            if keep < before:
                total, before = total + self.cuts([layer], [before, keep])[0, 0, 1], keep
        return float(total)


def smoothed(found: Array, keeps: Sequence[Fraction]) -> Array:
    """One layer's damage as it must be: 0 where all stays, never falling as less stays.

    The kept sets of one ranking are nested, so dropping more cannot help; what falls again is the noise of few records.
    The nearest such curve in squared distance is that of the pool-adjacent-violators algorithm (Ayer et al. 1955), cut
    at 0. Entries without an answer lie between their neighbours; below the last answer nothing is known (infinite).
    """
    known = [j for j in range(1, len(found)) if np.isfinite(found[j])]
    fitted = np.maximum(_isotonic(found[known]), 0.0)
    result = np.full(len(found), np.inf)
    result[0] = 0.0
    last = known[-1] if known else 0
    places = [0, *known]
    within = _inverse(keeps[: last + 1])
    result[: last + 1] = np.interp(within, within[places], [0.0, *fitted])
    return result


def _isotonic(values: Array) -> Array:
    """The nearest never-falling sequence: neighbours that fall share their mean."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, size = float(value), 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        blocks.append((mean, size))
    return np.array([mean for mean, size in blocks for _ in range(size)])


def _inverse(keeps: Sequence[Fraction]) -> Array:
    """Rises as keeps fall."""
    return np.array([float(1 / keep) for keep in keeps])


def _between(row: Array, measured: Sequence[Fraction], keeps: Sequence[Fraction]) -> Array:
    """One layer's damage at other keeps; infinite below the last one that is known."""
    known = np.isfinite(row)
    at = _inverse([keep for keep, there in zip(measured, known, strict=True) if there])
    wanted = _inverse(keeps)
    return np.where(wanted > at[-1] * (1 + 1e-9), np.inf, np.interp(wanted, at, row[known]))


@dataclass(frozen=True)
class Solved:
    """The best schedule of every budget. `parts` of N are what budgets are counted in; `keeps[0]` is everything that is
    there."""

    depth: int
    parts: int
    keeps: tuple[Fraction, ...]
    allocation: Allocation

    @cached_property
    def lowest(self) -> Fraction:
        """The smallest budget that has a schedule."""
        spent = next(s for s in range(self.allocation.most + 1) if self.allocation.levels(s) is not None)
        return Fraction(spent, self.parts * self.depth)

    def schedule(self, budget: Fraction) -> Schedule | None:
        """The best of at most this budget; None where none is that small."""
        found = self.allocation.levels(self._units(budget))
        if found is None:
            return None
        return Schedule.of(self.depth, {layer: self.keeps[level] for layer, level in enumerate(found) if level})

    def damage(self, budget: Fraction) -> float:
        """What that schedule costs by the table."""
        return self.allocation.damage(self._units(budget))

    def _units(self, budget: Fraction) -> int:
        return int(budget * self.parts * self.depth)


def solve(table: Table, depth: int, layers: Sequence[int], tokens: int | None) -> Solved:
    """Every budget's best schedule that drops tokens at `layers` only. `tokens` is N where records share it: budgets
    are then counted in whole tokens."""
    parts = PLAIN if tokens is None else min(tokens, RESOLUTION)
    top, low = table.keeps[0], table.keeps[-1]
    steps = {Fraction(round(parts * float(top) * float(low / top) ** (j / (LEVELS - 1))), parts) for j in range(LEVELS)}
    keeps = [top, *sorted((keep for keep in steps if low <= keep < top and keep > 0), reverse=True)]
    cut = np.full((depth, len(keeps), len(keeps)), np.inf)
    cut[list(layers)] = table.cuts(layers, keeps)
    units = [round(keep * parts) for keep in keeps]
    return Solved(depth, parts, tuple(keeps), allocate(cut, units, parts * depth))
