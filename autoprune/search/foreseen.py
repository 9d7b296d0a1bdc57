"""Points of the space chosen by the damage that a table foresees for them: unlike a schedule of one's own making, a
sampler learns from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.errors import BadInput
from autoprune.policy.budget import Infeasible
from autoprune.search.schedule import schedule_of
from autoprune.search.strategy import Probe, Probes, Steps
from autoprune.search.tabulate import Tabled, records_per_entry, yardstick
from autoprune.search.verifying import halved

if TYPE_CHECKING:
    from autoprune.policy.parameters import Parameter
    from autoprune.search.plan import Proposals
    from autoprune.search.schedule import Schedule
    from autoprune.search.strategy import Task

PHASE, LOOK = "foreseen", "look"
DRAWN = 512
LOOKS = 4  # points of a budget that are looked at
NEAR = 0.92  # a point stands for a budget if it has at least so much of it, and no more than it


@dataclass(frozen=True)
class Point:
    """A point of the space, its budget, and the damage that its table foresees."""

    values: Mapping[str, Any]
    budget: float
    damage: float


def foreseen(task: Task, points: Sequence[Point], trials: float) -> Steps:
    """Measure points for at most so many full evaluations, at budgets that are halved towards where a constraint begins
    to fail, then between feasible ones; one budget after the other, since each says where the next should be.

    At a budget the `LOOKS` points of least foreseen damage are looked at, on as many records as a table's entries, and
    the best of them is measured in full.
    """
    limit = records_per_entry(task)
    stick, labels = yardstick(task, None, limit), tuple(task.baseline.samples)
    left = list(points)
    known = {min(p.budget for p in left): False, max(p.budget for p in left): True, **_feasible(task)}
    each = 1 + (LOOKS - 1) * limit / task.records
    for _ in range(int(trials / each + 1e-9)):
        middle = halved(known, 1)
        if not middle or len(left) < LOOKS:
            return
        chosen = _nearest(left, middle[0])
        left = [p for p in left if p not in chosen]
        looks = yield Probes(LOOK, [Probe(values=p.values, limit=limit, measures=labels) for p in chosen])
        best = min(zip(chosen, looks, strict=True), key=lambda pair: stick.loss(pair[1]))[0]
        (answer,) = yield Probes(PHASE, [Probe(values=best.values)])
        known[middle[0]] = answer.feasible


def _feasible(task: Task) -> dict[float, bool]:
    """The budgets of references that meet the constraints. What those that do not would need, better points may not."""
    met = [r for r in task.known("references") if all(slack <= 0 for slack in r.constraints.values())]
    kept = [schedule_of(r.canonical, task.proposals.tokens) for r in met if r.state == "complete" and r.canonical]
    return {float(schedule.budget(task.proposals.tokens)): True for schedule in kept}


def drawn(task: Task, tables: Sequence[Tabled]) -> list[Point]:
    """Random points, as many for every table: what decides where and how much is dropped is drawn, all else is as in
    the point that the table's form was read from. Those that make no policy are left out; none where nothing of that
    kind is open."""
    rng = np.random.default_rng([task.seed, DRAWN])
    found: dict[str, Point] = {}
    for tabled in tables:
        values = tabled.form.values
        free = [] if values is None else _free(task.proposals, values)
        for _ in range(DRAWN // len(tables) if free else 0):
            point = {**(values or {}), **{p.name: p.at(float(rng.random())) for p in free}}
            made = _made(task.proposals, point)
            if made is not None:
                digest, schedule = made
                budget = float(schedule.budget(task.proposals.tokens))
                found.setdefault(digest, Point(point, budget, tabled.table.of_schedule(schedule)))
    return list(found.values())


def _free(proposals: Proposals, values: Mapping[str, Any]) -> list[Parameter]:
    """The numbers that a schedule depends on: at the two ends of their range it is not the same."""

    def at(parameter: Parameter, place: float) -> Schedule | None:
        made = _made(proposals, {**values, parameter.name: parameter.at(place)})
        return None if made is None else made[1]

    numbers = [p for p in proposals.parameters if p.kind != "choice"]
    return [p for p in numbers if at(p, 0.0) != at(p, 1.0)]


def _made(proposals: Proposals, values: Mapping[str, Any]) -> tuple[str, Schedule] | None:
    """The digest and the schedule of the policy at a point; None where there is none."""
    try:
        made = proposals.candidate(values)
        return made.digest, schedule_of(made.canonical, proposals.tokens)
    except (BadInput, Infeasible):
        return None


def _nearest(points: Sequence[Point], budget: float) -> list[Point]:
    """`LOOKS` points of about this budget, the least damage first; where there are fewer, those of the next budgets."""
    about = [p for p in points if NEAR * budget <= p.budget <= budget]
    if len(about) >= LOOKS:
        return sorted(about, key=lambda p: p.damage)[:LOOKS]
    return sorted(points, key=lambda p: abs(p.budget - budget))[:LOOKS]
