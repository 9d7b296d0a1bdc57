"""What a front's members become when their layers get keeps of their own: rounds of schedules near the best points."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput
from autoprune.search import pareto
from autoprune.search.refine import refine
from autoprune.search.schedule import Form, schedule_of
from autoprune.search.strategy import Answer, Probe, Probes, Step

if TYPE_CHECKING:
    from autoprune.search.pareto import Point
    from autoprune.search.strategy import Task
    from autoprune.search.table import Table

PHASE = "refine"
ROUND = 4  # schedules around one member before another has its turn; as many as there are workers, if those are more


@dataclass(frozen=True)
class Spot:
    """A feasible policy, and where it lies (minimised)."""

    document: Mapping[str, Any]
    canonical: str
    digest: str
    point: Point


@dataclass
class Refining:
    """One refinement. `start`: the feasible points known before it; `tables`: of the layers' damages, if there are
    any."""

    task: Task
    start: Sequence[Spot]
    table: Table | None = None
    done: dict[str, int] = field(default_factory=dict)

    def run(self, trials: float) -> Generator[Step, Sequence[Answer], None]:
        """Measure at most so many schedules near the front's members, those that dominate most alone first. Ends early
        when no member has a neighbour that is not known."""
        spots = {spot.digest: spot for spot in self.start}
        left = int(trials)
        while left > 0:
            probes = self._around(list(spots.values()), min(left, max(ROUND, self.task.width)))
            if not probes:
                return
            left -= len(probes)
            for answer in (yield Probes(PHASE, probes)):
                if (spot := self._spot(answer)) is not None:
                    spots.setdefault(spot.digest, spot)

    def _spot(self, answer: Answer) -> Spot | None:
        made = answer.candidate
        if made is None or not answer.feasible:
            return None
        return Spot(made.document, made.canonical, made.digest, pareto.signed(answer.values, self.task.objectives))

    def _around(self, spots: Sequence[Spot], count: int) -> list[Probe]:
        """New schedules near the member that has had the fewest turns, of those the one with most volume to itself."""
        members = [spots[i] for i in pareto.non_dominated([spot.point for spot in spots])]
        alone = _alone([spot.point for spot in members])
        turns = sorted(range(len(members)), key=lambda i: (self.done.get(members[i].digest, 0), -alone[i], i))
        for i in turns:
            made = self._near(members[i], count)
            if made:
                return made
        return []

    def _near(self, spot: Spot, count: int) -> list[Probe]:
        """The next `count` neighbours of a member that have not been asked for; none where its layers are not free."""
        proposals, before = self.task.proposals, self.done.get(spot.digest, 0)
        self.done[spot.digest] = before + count
        try:
            form = Form.of(spot.document, proposals.depth, proposals.sites, proposals.tokens)
            schedule = schedule_of(spot.canonical, proposals.tokens)
            near = refine(schedule, form, proposals.tokens, self.table, self.task.seed, before + count)
            return [Probe(document=form.document(made)) for made in near[before:]]
        except (BadInput, ValueError):
            return []


def _alone(points: Sequence[Point]) -> list[float]:
    """The volume that each point alone dominates, seen from just beyond the worst of each objective."""
    corner = tuple(max(column) + 0.1 * ((max(column) - min(column)) or 1.0) for column in zip(*points, strict=True))
    whole = pareto.hypervolume(points, corner)
    return [whole - pareto.hypervolume([*points[:i], *points[i + 1 :]], corner) for i in range(len(points))]


def known_spots(task: Task, *phases: str) -> list[Spot]:
    """The feasible points of these phases."""
    return [
        Spot(record.policy, record.canonical, record.digest, pareto.signed(record.values, task.objectives))
        for record in task.known(*phases)
        if record.policy is not None and record.canonical is not None and pareto.feasible(record)
    ]
