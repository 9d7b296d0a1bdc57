"""How much worse than the unpruned model a policy is, by one measure: what strategies watch that prune step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoprune.errors import BadInput

if TYPE_CHECKING:
    from autoprune.search.strategy import Answer, Task


@dataclass(frozen=True)
class Damage:
    """`base`: what the unpruned model reaches on the same records. `unit`: what counts as 1, the loss that a constraint
    allows, else the base itself; 0 where neither says how much a loss is (see `by`)."""

    label: str
    higher: bool
    base: float
    unit: float
    allowed: bool

    def loss(self, answer: Answer) -> float:
        """In the measure's own unit; infinite where nothing was measured, below 0 where the policy is better."""
        if not answer.measured:
            return math.inf
        lost = self.base - answer.values[self.label]
        return lost if self.higher else -lost

    def of(self, answer: Answer) -> float:
        """In units of what may be lost."""
        return self.loss(answer) / self.unit

    def by(self, worst: Answer) -> Damage:
        """With what this policy loses as the unit."""
        lost = self.loss(worst)
        return replace(self, unit=lost if 0 < lost < math.inf else 1.0)


def damage(task: Task, measure: str | None = None, limit: int | None = None) -> Damage:
    """By `measure`, else that of the first constraint that is no cost, else of the first such objective. `limit`: on
    the first so many records. Raises BadInput where the study has no such measure."""
    quality = qualities(task)
    label = measure or next(iter(quality), None)
    if label is None:
        raise BadInput("objectives and constraints are all costs: nothing says what pruning may lose")
    if label not in quality:
        raise BadInput(f"measure: {label!r} is no quality of this study; there are: {', '.join(quality) or 'none'}")
    numbers = task.baseline.samples[label][:limit]
    base = sum(numbers) / len(numbers)
    higher, allowed = quality[label], 0.0
    for constraint in task.constraints:
        if constraint.label == label:
            allowed = -constraint.slack(base, base)
            break
    return Damage(label, higher, base, allowed if allowed > 0 else abs(base), allowed > 0)


def qualities(task: Task) -> dict[str, bool]:
    """Measures that have a number for each record, and whether higher is better; those of constraints come first."""
    found = {c.label: c.op == ">=" for c in task.constraints}
    found |= {o.label: o.direction == "maximize" for o in task.objectives if o.label not in found}
    return {label: higher for label, higher in found.items() if label in task.baseline.samples}
