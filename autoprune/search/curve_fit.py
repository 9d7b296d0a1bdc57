"""Values of a space whose policy keeps about what a schedule says: least squares over the layers, no measuring.

Only parameters that move the schedule are fitted. A few points at random, at the schedule's own budget, then steps at
random from the best, all numbers at once (what a sampled budget means depends on the others), that become smaller: the
same from the same seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoprune.errors import AutoPruneError
from autoprune.policy.bound import BUDGET
from autoprune.search.schedule import Schedule, schedule_of

if TYPE_CHECKING:
    from autoprune.policy.parameters import Parameter
    from autoprune.search.plan import Proposals

DRAWS = 12
SPREADS = (0.25, 0.1, 0.05, 0.02)
TRIES = 6  # for each number and spread
FAR = math.inf


def fitted(proposals: Proposals, values: Mapping[str, Any], target: Schedule, seed: int) -> dict[str, Any] | None:
    """The values, others as they are; None where no point that was tried is a policy."""
    search = _Fit(proposals, target, {**values, **_budget(proposals, target)})
    free = [p for p in proposals.parameters if p.kind != "choice" and search.moves(p)]
    rng = random.Random(f"{seed}:{target.steps}")
    first = {p.name: p.place(search.values[p.name]) for p in free}
    drawn = [{**first, **{p.name: rng.random() for p in free if p.name != BUDGET}} for _ in range(DRAWS)]
    best = min([first, *drawn], key=search.error_at)
    for spread in SPREADS:
        for _ in range(TRIES * len(free)):
            near = {name: min(max(rng.gauss(place, spread), 0.0), 1.0) for name, place in best.items()}
            best = min(best, near, key=search.error_at)
    return None if search.error_at(best) == FAR else search.values_at(best)


def _budget(proposals: Proposals, target: Schedule) -> dict[str, float]:
    """The schedule's budget, where the space asks for one and as far as its range goes."""
    asked = [p for p in proposals.parameters if p.name == BUDGET]
    spent = float(target.budget(proposals.tokens))
    return {p.name: min(max(spent, float(p.low or 0)), float(p.high or 1)) for p in asked}


class _Fit:
    """Points are places in each parameter's range, 0 to 1, by name."""

    def __init__(self, proposals: Proposals, target: Schedule, values: Mapping[str, Any]) -> None:
        self.proposals, self.target, self.values = proposals, target, values
        self.parameters = {p.name: p for p in proposals.parameters}
        self.known: dict[tuple[Any, ...], float] = {}

    def kept(self, values: Mapping[str, Any]) -> Schedule | None:
        try:
            return schedule_of(self.proposals.candidate(values).canonical, self.proposals.tokens)
        except AutoPruneError:
            return None

    def moves(self, parameter: Parameter) -> bool:
        """Whether the schedule depends on this number, as far as three places tell."""
        name = parameter.name
        seen = {self.kept({**self.values, name: _number(parameter, place)}) for place in (0.0, 0.5, 1.0)}
        return len(seen) > 1 or seen == {None}

    def values_at(self, point: Mapping[str, float]) -> dict[str, Any]:
        return {**self.values, **{name: _number(self.parameters[name], place) for name, place in point.items()}}

    def error_at(self, point: Mapping[str, float]) -> float:
        """The squared difference of what enters each layer, summed."""
        key = tuple(point.values())
        if key not in self.known:
            kept = self.kept(self.values_at(point))
            pairs = () if kept is None else zip(kept.layers, self.target.layers, strict=True)
            self.known[key] = FAR if kept is None else math.fsum(float(a - b) ** 2 for a, b in pairs)
        return self.known[key]


def _number(parameter: Parameter, place: float) -> float | int:
    """What stands at a place in the range; the inverse of `Parameter.place`."""
    low, high = float(parameter.low or 0), float(parameter.high or 0)
    number = low * (high / low) ** place if parameter.log else low + place * (high - low)
    number = min(max(number, low), high)
    return round(number) if parameter.kind == "int" else number
