"""Cheap looks at a proposal before it is measured in full: who goes on, and who is dropped.

A rung is the study's own measures on the first records; a screen is a rung with another measure. Asynchronous
successive halving (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020), with the rank by
constrained non-domination (Deb et al., 2002) in place of one loss: a proposal goes on at once if it is in the better
part of what is known at its rung. Nobody waits for a rung to fill up.

What was measured in full stands at every rung, too: its per-record numbers are cut to the rung's records. That costs
nothing, so the references are there from the start. A rung's numbers are never an objective's value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING

import numpy as np

from autoprune.search.pareto import signed

if TYPE_CHECKING:
    from autoprune.ports import Measurement
    from autoprune.search.plan import Rung
    from autoprune.search.statistics import Array
    from autoprune.spec.goals import Constraint

FEW = 4  # before so many are known at a rung, nothing is dropped
WINDOW = 512  # only the newest so many are compared, so that a look costs the same in the longest study
PROMOTED, DROPPED = "promoted", "dropped"  # how the reason of a record at a rung begins


@dataclass(frozen=True)
class Verdict:
    """`reason` begins with PROMOTED or DROPPED."""

    promoted: bool
    reason: str


class Standings:
    """Who stands where at each rung. `baselines`: the unpruned model with each rung's measures on its records; `whole`:
    the same on the whole search split."""

    def __init__(self, rungs: Sequence[Rung], baselines: Sequence[Measurement], whole: Measurement) -> None:
        self.rungs, self.baselines, self._whole = tuple(rungs), tuple(baselines), whole
        self._places: list[dict[str, tuple[float, ...]]] = [{} for _ in rungs]

    def add(self, index: int, digest: str, values: Mapping[str, float]) -> None:
        """What a policy came to at a rung; what is known of it first stays."""
        rung, baseline = self.rungs[index], self.baselines[index]
        if digest not in self._places[index]:
            place = (violation(rung.constraints, values, baseline), *signed(values, rung.objectives))
            self._places[index][digest] = place

    def add_complete(self, digest: str, measurement: Measurement) -> None:
        """A full measurement, at every rung whose measures it has."""
        for index, (rung, part) in enumerate(zip(self.rungs, self.baselines, strict=True)):
            if all(label in measurement.values for label in rung.measures):
                self.add(index, digest, cut(measurement, rung, part, self._whole))

    def judge(self, index: int, digest: str, values: Mapping[str, float]) -> Verdict:
        """Whether the policy with these values goes on from a rung, by what is known there so far."""
        self.add(index, digest, values)
        rung, known = self.rungs[index], self._places[index]
        own = known[digest]
        others = [place for name, place in list(known.items())[-WINDOW:] if name != digest]
        ahead, count = better(own, others), len(others) + 1
        promoted = count < FEW or ahead == 0 or ahead < (1 - rung.drop) * count
        word = PROMOTED if promoted else DROPPED
        return Verdict(promoted, f"{word} after {rung.limit} records: {ahead} of {count} are in a better front there")


def violation(constraints: Sequence[Constraint], values: Mapping[str, float], baseline: Measurement) -> float:
    """How far beyond all bounds together, each relative to the unpruned model's value; 0 within them. No margin: on few
    records it would be wide, and only the order counts."""
    beyond = ((c.slack(values[c.label], baseline.values[c.label]), baseline.values[c.label]) for c in constraints)
    return fsum(max(0.0, slack) / (abs(unit) or 1.0) for slack, unit in beyond)


def cut(measurement: Measurement, rung: Rung, part: Measurement, whole: Measurement) -> dict[str, float]:
    """A full measurement's values on the rung's records. A cost has no per-record numbers: it is scaled as the unpruned
    model's is."""

    def value(label: str) -> float:
        samples = measurement.samples.get(label)
        if samples is not None:
            return fsum(samples[: rung.limit]) / rung.limit
        unit = whole.values.get(label, 0.0)
        return measurement.values[label] * (part.values[label] / unit if unit else 1.0)

    return {label: value(label) for label in rung.measures}


def better(own: tuple[float, ...], others: Sequence[tuple[float, ...]]) -> int:
    """How many of the others are in a better front than `own`: (violation, objectives...) each, all to be small."""
    places: Array = np.asarray([own, *others], dtype=float)
    beaten = _dominates(places)
    left = np.ones(len(places), dtype=bool)
    ahead = 0
    while True:
        front = left & ~beaten[left].any(axis=0)
        if front[0]:
            return ahead
        ahead += int(front.sum())
        left &= ~front


def _dominates(places: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """[n, n]: whether i dominates j, less violation before anything else."""
    i, j = places[:, None, :], places[None, :, :]
    pareto = (i[..., 1:] <= j[..., 1:]).all(axis=-1) & (i[..., 1:] < j[..., 1:]).any(axis=-1)
    result: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (i[..., 0] < j[..., 0]) | (
        (i[..., 0] == j[..., 0]) & pareto
    )
    return result
