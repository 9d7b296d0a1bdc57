"""Schedules near a schedule, at its budget: what a search tries around the members of its front.

Three kinds of moves: a step schedule is smoothed until every layer has a keep of its own; a little more is dropped at
one layer and, for it, a little less at another; and so, between neighbours, tokens pass from one block of layers to the
next. A table of damages, where there is one, says which of the last two are worth trying. Pure and repeatable.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from autoprune.search.schedule import Schedule

if TYPE_CHECKING:
    from autoprune.search.schedule import Form
    from autoprune.search.statistics import Array
    from autoprune.search.table import Table

PARTS = 1000  # of N, where N is not known
PORTIONS = (Fraction(1, 4), Fraction(1, 2), Fraction(1))  # of what a layer drops that it may leave to another
REACHES = (2, 4, 8)  # a smoothed layer looks at a half, a quarter, an eighth of all to either side

Counts = tuple[int, ...]


def refine(
    schedule: Schedule, form: Form, tokens: int | None, table: Table | None = None, seed: int = 0
) -> list[Schedule]:
    """Other schedules of at most the same budget that drop tokens only where the form may, each once, the most
    promising first: in turn one that is smoothed and two with something moved from one layer to another, the latter by
    the table, drawn by `seed` without one. `tokens` is N where records share it."""
    blocks = Blocks.of(schedule, form, tokens)
    counts = blocks.counts(schedule)
    smooth = list(dict.fromkeys(made for part in REACHES if (made := blocks.smoothed(counts, part)) != counts))
    transfers = list(blocks.transfers(counts))
    random.Random(seed).shuffle(transfers)
    if table is not None:
        transfers = _promising(transfers, blocks.damages(table))
    return [blocks.schedule(made) for made in dict.fromkeys(_in_turn(smooth, [made for _, made in transfers]))]


def _in_turn(smooth: Sequence[Counts], transfers: Sequence[Counts]) -> Iterator[Counts]:
    """One of the first, two of the second, and so on; when one list ends, the rest of the other."""
    for place in range(max(len(smooth), -(-len(transfers) // 2))):
        yield from smooth[place : place + 1]
        yield from transfers[2 * place : 2 * place + 2]


def _promising(transfers: Sequence[tuple[int, Counts]], foreseen: Array) -> list[tuple[int, Counts]]:
    """Of those that drop more at the same block the one that harms least, the least harmful first: moves that
    differ."""
    best: dict[int, tuple[float, Counts]] = {}
    for taker, made in transfers:
        damage = _damage(made, foreseen)
        if np.isfinite(damage) and (taker not in best or damage < best[taker][0]):
            best[taker] = (damage, made)
    return [(taker, best[taker][1]) for taker in sorted(best, key=lambda taker: best[taker][0])]


def _damage(counts: Counts, foreseen: Array) -> float:
    """As `Table.of_schedule`, in whole counts."""
    most = before = foreseen.shape[1] - 1
    total = 0.0
    for row, count in zip(foreseen, counts, strict=True):
        if count < before:
            known = np.isfinite(row[count])
            total += max(row[count] - row[before], row[round(most * count / before)]) if known else np.inf
            before = count
    return float(total)


@dataclass(frozen=True)
class Blocks:
    """The layers from each admitted one up to the next. `most`: tokens (or parts of N) that enter the first, all that
    are there; `layers` where they begin, `widths` how many layers each has."""

    depth: int
    parts: int
    most: int
    layers: tuple[int, ...]
    widths: tuple[int, ...]

    @classmethod
    def of(cls, schedule: Schedule, form: Form, tokens: int | None) -> Blocks:
        """The form's. Raises ValueError for a schedule that drops tokens elsewhere."""
        own = {layer for layer, keep in schedule.steps if keep < form.start.at(layer)}
        if not own <= set(form.layers):
            raise ValueError(f"the form has no stage before layers {sorted(own - set(form.layers))}")
        layers = form.layers
        widths = tuple(b - a for a, b in pairwise((*layers, schedule.depth)))
        parts = tokens or PARTS
        return cls(schedule.depth, parts, int(form.start.layers[-1] * parts), layers, widths)

    def counts(self, schedule: Schedule) -> Counts:
        kept = schedule.on(self.parts)
        return tuple(min(self.most, round(kept.at(layer) * self.parts)) for layer in self.layers)

    def schedule(self, counts: Counts) -> Schedule:
        keeps = {layer: Fraction(n, self.parts) for layer, n in zip(self.layers, counts, strict=True) if n < self.most}
        return Schedule.of(self.depth, keeps)

    def spent(self, counts: Sequence[int]) -> int:
        return sum(n * width for n, width in zip(counts, self.widths, strict=True))

    def damages(self, table: Table) -> Array:
        """What keeping 0, 1, …, `most` from each block on costs, [blocks, most + 1]; 0 is out of reach."""
        keeps = [Fraction(n, self.parts) for n in range(self.most, 0, -1)]
        found = table.at(self.layers, keeps)[:, ::-1]
        return np.concatenate([np.full((len(found), 1), np.inf), found], axis=1)

    def smoothed(self, counts: Counts, part: int) -> Counts:
        """The same budget on a slope: each block takes the mean of those within the `part`-th part of all to either
        side, and at least one token less than the block before as long as there are any."""
        reach = max(1, len(counts) // part)
        padded = [*[self.most] * reach, *counts, *[counts[-1]] * reach]
        means = [sum(padded[i : i + 2 * reach + 1]) / (2 * reach + 1) for i in range(len(counts))]
        slope = [round(mean) - i for i, mean in enumerate(means)]

        def raised(by: int) -> list[int]:
            return [min(self.most, max(1, n + by)) for n in slope]

        budget, low, high = self.spent(counts), -2 * self.most, 2 * self.most
        if self.spent(raised(low)) > budget:
            return counts
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.spent(raised(middle)) <= budget else (low, middle)
        return self._filled(raised(low), budget)

    def _filled(self, counts: list[int], budget: int) -> Counts:
        """One token more for the shallow ones that can take it, as far as the budget goes."""
        left = budget - self.spent(counts)
        for i, width in enumerate(self.widths):
            room = (self.most if i == 0 else counts[i - 1]) - counts[i]
            if width <= left and room > 0:
                counts[i], left = counts[i] + 1, left - width
        return tuple(counts)

    def transfers(self, counts: Counts) -> Iterator[tuple[int, Counts]]:
        """A block drops part of what it drops less, another one (given, too) as much more as that costs."""
        drops = [a - b for a, b in pairwise((self.most, *counts))]
        rest = [self.depth - layer for layer in self.layers]
        for giver, dropped in enumerate(drops):
            for portion in PORTIONS if dropped else ():
                less = max(1, round(dropped * portion))
                for taker in range(len(drops)):
                    more = -(-less * rest[giver] // rest[taker])
                    if taker != giver and counts[-1] + less - more >= 1:
                        changed = {giver: dropped - less, taker: drops[taker] + more}
                        yield taker, self._dropping([changed.get(i, drop) for i, drop in enumerate(drops)])

    def _dropping(self, drops: Sequence[int]) -> Counts:
        counts, left = [], self.most
        for drop in drops:
            left -= drop
            counts.append(left)
        return tuple(counts)
