"""Measuring a table of sensitivities: which entries, by what measure, on how many records."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from autoprune.policy.budget import rounded
from autoprune.search.damage import Damage, damage, qualities
from autoprune.search.schedule import Schedule
from autoprune.search.strategy import Answer, Probe, Probes, Step
from autoprune.search.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoprune.search.schedule import Form
    from autoprune.search.strategy import Task

PHASE = "table"
PREFERRED = ("information_flow", "logit_kl", "answer_nll", "loyalty")  # smooth ones first: few records tell
ENOUGH = 20  # entries that a table should have before a second form gets one
COLUMNS = 8  # keeps of a layer at most; the solver's others lie between
FEWEST, PART, MOST = 16, 8, 128  # records of an entry: an eighth of all where that lies between

Measuring = Generator[Step, Sequence[Answer], "list[Tabled]"]


@dataclass(frozen=True)
class Tabled:
    """A way to choose tokens and what dropping costs with it."""

    form: Form
    table: Table


def records_per_entry(task: Task) -> int:
    """How many records an entry is measured on; no matter how many trials there are, so that more of them extend a
    table."""
    return min(task.records, max(FEWEST, min(MOST, task.records // PART)))


def yardstick(task: Task, measure: str | None, limit: int) -> Damage:
    """What damage is counted in: `measure`, else the smoothest quality of the study. Raises BadInput where there is
    none."""
    known = list(qualities(task))
    smooth = [label for name in PREFERRED for label in known if label.startswith(name)]
    return damage(task, measure or next(iter(smooth), None), limit)


def tabulate(
    task: Task, forms: Sequence[Form], lowest: Fraction, trials: float, measure: str | None = None
) -> Measuring:
    """Tables of the forms that are worth one, the least harmful first; none where `trials` do not pay for one.

    Where there are several forms, each is measured at a middle keep first; those that do least harm get the largest
    grid that `trials` full evaluations pay for. `lowest` is the least keep. Each grid is part of the next
    larger one, so a study that goes on with more trials measures only what is new.
    """
    limit = records_per_entry(task)
    bench = _Bench(lowest, task.proposals.tokens, limit, yardstick(task, measure, limit))
    entries = int(trials * task.records / limit + 1e-9)
    chosen = list(forms)[: max(1, entries // 6)]
    if len(chosen) > 1:
        chosen, entries = yield from bench.screened(chosen, entries)
    grids = [grid for form in chosen if (grid := bench.largest(form, entries // len(chosen))) is not None]
    return (yield from bench.measured(chosen, grids)) if len(grids) == len(chosen) else []


Grid = tuple[tuple[int, ...], tuple[Fraction, ...]]


@dataclass(frozen=True)
class _Bench:
    """How entries are measured: the least keep, N where it is known, records of an entry, what damage is counted in."""

    lowest: Fraction
    tokens: int | None
    limit: int
    stick: Damage

    def screened(
        self, forms: Sequence[Form], entries: int
    ) -> Generator[Step, Sequence[Answer], tuple[list[Form], int]]:
        """The forms that do least harm at the middle keep, and how many of the entries are left for theirs."""
        smallest = [next(self.grids(form)) for form in forms]
        grids = [(layers, keeps[:2]) for layers, keeps in smallest]
        tables = yield from self.measured(forms, grids)
        left = entries - sum(map(_size, grids))
        order = sorted(range(len(forms)), key=lambda i: (_mean(tables[i].table), i))
        kept = order[: max(1, left // ENOUGH)]
        return [forms[i] for i in kept], left + sum(_size(grids[i]) for i in kept)

    def measured(self, forms: Sequence[Form], grids: Sequence[Grid]) -> Measuring:
        """Every form's table in one step."""
        probes = [probe for form, grid in zip(forms, grids, strict=True) for probe in self._probes(form, grid)]
        answers = iter((yield Probes(PHASE, probes)))
        return [Tabled(form, self._table(form, grid, answers)) for form, grid in zip(forms, grids, strict=True)]

    def _probes(self, form: Form, grid: Grid) -> Iterator[Probe]:
        layers, keeps = grid
        cuts = [{layer: keep} for layer in layers for keep in keeps[1:]]
        for cut in [{}, *cuts] if form.front else cuts:
            schedule = Schedule.of(form.depth, cut)
            yield Probe(document=form.document(schedule), limit=self.limit, measures=(self.stick.label,))

    def _table(self, form: Form, grid: Grid, answers: Iterator[Answer]) -> Table:
        """A form's share of the answers. What stands before the language model anyway is part of every entry, so its
        own damage is taken off."""
        layers, keeps = grid
        before = self.stick.loss(next(answers)) if form.front else 0.0
        found = [[0.0] + [self.stick.loss(next(answers)) - before for _ in keeps[1:]] for _ in layers]
        return Table.of(layers, keeps, np.array(found))

    def largest(self, form: Form, entries: int) -> Grid | None:
        """The largest grid of so many entries; None where the smallest has more."""
        paid = [grid for grid in self.grids(form) if _size(grid) + bool(form.front) <= entries]
        return paid[-1] if paid else None

    def grids(self, form: Form) -> Iterator[Grid]:
        """From small to large, each part of the next: one more layer, or one more keep, halfway between two. About
        twice as many layers as keeps."""
        inside = [layer for layer in form.layers if layer > 0]
        first = [layer for layer in form.layers if layer == 0]
        parts = _halving(2 * len(inside)) if inside else []
        places = list(dict.fromkeys(inside[round(part * (len(inside) - 1))] for part in parts))
        rows, columns = min(2, len(places)), 2
        while True:
            yield (*first, *sorted(places[:rows])), self._keeps(form.start.layers[-1], columns)
            if columns < COLUMNS and (2 * columns <= rows or rows == len(places)):
                columns += 1
            elif rows < len(places):
                rows += 1
            else:
                return

    def _keeps(self, top: Fraction, count: int) -> tuple[Fraction, ...]:
        """`top`, and so many keeps on a log scale down to the lowest: whole tokens where N is known, else
        thousandths."""
        ratio, parts = float(min(self.lowest / top, Fraction(1, 2))), self.tokens or 1000
        parted = _halving(2 * COLUMNS)[1 : count + 1]
        steps = {Fraction(rounded(top * Fraction(ratio ** float(part)), parts), parts) for part in parted}
        return (top, *sorted((keep for keep in steps if keep < top), reverse=True))


def _halving(count: int) -> list[Fraction]:
    """At least so many places between 0 and 1: the ends, the middle, the middles between those, …"""
    found, parts = [Fraction(0), Fraction(1)], 2
    while len(found) < count:
        found += [Fraction(i, parts) for i in range(1, parts, 2)]
        parts *= 2
    return found


def _size(grid: Grid) -> int:
    return len(grid[0]) * (len(grid[1]) - 1)


def _mean(table: Table) -> float:
    known = table.damage[:, 1:][np.isfinite(table.damage[:, 1:])]
    return float(known.mean()) if known.size else float("inf")
