"""What a front's members become when their layers get keeps of their own: rounds of schedules near the best points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput
from autoprune.policy.budget import Infeasible
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
FUTILE = 60  # schedules in a row that could not be measured, before it is given up


@dataclass(frozen=True)
class Spot:
    """A measured policy, and where it lies (minimised); only feasible ones are refined. `arm` it was proposed in."""

    document: Mapping[str, Any]
    canonical: str
    digest: str
    point: Point
    feasible: bool = True
    arm: str = ""


@dataclass
class Refining:
    """One refinement. `start`: the points known before it, none of which is asked for again; `table`: of the layers'
    damages in the task's arm, if there is one. Members of arms that are another task's are only in the way."""

    task: Task
    start: Sequence[Spot]
    table: Table | None = None
    turns: Counter[str] = field(default_factory=Counter)
    left: dict[str, Iterator[Probe]] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)

    def run(self, trials: float) -> Generator[Step, Sequence[Answer], None]:
        """Measure at most so many schedules near the front's members, those that dominate most alone first. What turns
        out to be no policy, or to cost too much, does not count. Ends early when no member has another neighbour."""
        spots = {spot.digest: spot for spot in self.start if spot.feasible}
        self.known |= {spot.digest for spot in self.start}
        left, futile = int(trials), 0
        while left > 0 and futile < FUTILE:
            arm, probes = self._around(list(spots.values()), min(left, max(ROUND, self.task.width)))
            if not probes:
                return
            answers = yield Probes(PHASE, probes, arm)
            measured = sum(answer.measured for answer in answers)
            left, futile = left - measured, 0 if measured else futile + len(answers)
            for answer in answers:
                if (spot := self._spot(answer, arm)) is not None:
                    spots.setdefault(spot.digest, spot)

    def _spot(self, answer: Answer, arm: str) -> Spot | None:
        made = answer.candidate
        if made is None or not answer.feasible:
            return None
        point = pareto.signed(answer.values, self.task.objectives)
        return Spot(made.document, made.canonical, made.digest, point, arm=arm)

    def _around(self, spots: Sequence[Spot], count: int) -> tuple[str, list[Probe]]:
        """New schedules near the member that has had the fewest turns, of those the one with most volume to itself, and
        its arm."""
        members = [spots[i] for i in pareto.non_dominated([spot.point for spot in spots])]
        alone = _alone([spot.point for spot in members])
        turns = sorted(range(len(members)), key=lambda i: (self.turns[members[i].digest], -alone[i], i))
        for member in (members[i] for i in turns):
            self.turns[member.digest] += 1
            if made := list(islice(self._near(member), count)):
                return member.arm or self.task.arm, made
        return "", []

    def _near(self, spot: Spot) -> Iterator[Probe]:
        """The neighbours of a member that are left, the most promising first; each is taken once."""
        if spot.digest not in self.left:
            self.left[spot.digest] = self._neighbours(spot)
        return self.left[spot.digest]

    def _neighbours(self, spot: Spot) -> Iterator[Probe]:
        """Policies that are not known yet; none where the member's layers are not free."""
        proposals = self.task.refines.get(spot.arm)
        if proposals is None:
            return
        table = self.table if spot.arm == self.task.arm else None
        try:
            form = Form.of(spot.document, proposals.depth, proposals.sites, proposals.tokens)
            schedule = schedule_of(spot.canonical, proposals.tokens)
            near = refine(schedule, form, proposals.tokens, table, self.task.seed)
        except (BadInput, ValueError):
            return
        for made in near:
            document = form.document(made)
            with suppress(BadInput, Infeasible):
                digest = proposals.free(document).digest
                if digest not in self.known:
                    self.known.add(digest)
                    yield Probe(document=document)


def _alone(points: Sequence[Point]) -> list[float]:
    """The volume that each point alone dominates, seen from just beyond the worst of each objective."""
    corner = tuple(max(column) + 0.1 * ((max(column) - min(column)) or 1.0) for column in zip(*points, strict=True))
    whole = pareto.hypervolume(points, corner)
    return [whole - pareto.hypervolume([*points[:i], *points[i + 1 :]], corner) for i in range(len(points))]


def known_spots(task: Task, *phases: str) -> list[Spot]:
    """The points of these phases that were measured in full."""
    return [
        Spot(
            record.policy,
            record.canonical,
            record.digest,
            pareto.signed(record.values, task.objectives),
            pareto.feasible(record),
            record.arm,
        )
        for record in task.known(*phases)
        if record.policy is not None and record.canonical is not None and record.state == "complete"
    ]
