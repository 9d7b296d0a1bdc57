"""A sampled budget as a point of what the other values can reach.

Stages before the solved one may keep so much that no budget below some floor can be met. The sampled range then begins
at that floor: low becomes the floor, high stays, what is between moves in proportion. Samplers do not learn from points
that make no policy, and would ask for them again and again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.policy.bound import BUDGET, BoundSpace
from autoprune.policy.budget import Infeasible
from autoprune.policy.document import Policy
from autoprune.policy.parameters import SNAP

ROUNDING = 1e-6  # of a step of 1 / SNAP


@dataclass(frozen=True)
class WithinReach:
    """Of a space; `resolve` raises `Infeasible` for a policy whose budget cannot be met."""

    space: BoundSpace
    resolve: Callable[[Policy], object]

    def moved(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Sampled values as the space is filled with them."""
        found = self._range(values)
        if found is None:
            return values
        low, floor, high = found
        budget = floor + (float(values[BUDGET]) - low) / (high - low) * (high - floor)
        return {**values, BUDGET: min(high, math.ceil(budget * SNAP - ROUNDING) / SNAP)}

    def sampled(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The sampled values that `moved` makes these of."""
        found = self._range(values)
        if found is None:
            return values
        low, floor, high = found
        budget = low + (float(values[BUDGET]) - floor) / (high - floor) * (high - low)
        return {**values, BUDGET: min(high, max(low, budget))}

    def _range(self, values: Mapping[str, Any]) -> tuple[float, float, float] | None:
        """Low, floor, high; None where all of the range can be met, or nothing of it."""
        budget = self.space.budget
        if budget is None or budget[0] == budget[1] or BUDGET not in values:
            return None
        low, high = budget
        try:
            self.resolve(self.space.fill({**values, BUDGET: low}))
        except Infeasible as error:
            floor = low + error.distance
            return (low, floor, high) if floor < high else None
        return None
