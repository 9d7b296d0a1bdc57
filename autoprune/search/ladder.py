"""The greedy ladder: schedules of falling budget, each made from the one before by dropping more, shallow to deep.

After G-Search (Accelerating Multimodal Large Language Models by Searching Optimal Vision Token Reduction, CVPR 2025):
rankings are nested, so keeping fewer is never better, and at each place in turn the least is kept that stays within a
tolerance. The i-th of n places may bring the loss up to i/n of the tolerance, so that what a place leaves over is for
those after it. A cut holds for all later layers, whose own cuts come next.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from autoprune.policy.budget import rounded
from autoprune.search.anchor import anchor, form, gentle
from autoprune.search.damage import Damage, damage
from autoprune.search.schedule import Form, Schedule
from autoprune.search.section import Searched, first_good
from autoprune.search.strategy import Answer, Options, Probe, Probes, Step, Steps, Task

PHASE = "greedy"
PLACES = 6  # about so many unless `block` says otherwise
FEWEST = 16  # records, if there are as many
ALLOWED = (0.25, 0.5, 1.0, 2.0)
RELATIVE = (0.01, 0.03, 0.1, 0.3)
EXACT = 1e-9  # two sums of the same numbers


class LadderOptions(Options):
    """How the greedy ladder is climbed."""

    measure: str | None = Field(
        None, description="what may be lost; the first constraint's that is no cost, else such an objective's"
    )
    tolerances: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None,
        min_length=1,
        description="one rung each: parts of what the constraint allows to lose (null: 1/4, 1/2, 1, 2), else of the "
        "unpruned value (null: 0.01, 0.03, 0.1, 0.3), where that is 0 of what the strongest pruning loses",
    )
    limit: float = Field(0.125, gt=0, le=1, description="which part of the search records a step is measured on")
    block: int | None = Field(
        None, ge=1, description="layers from one place to the next; null: about six places in all"
    )
    resolution: int = Field(16, ge=2, le=1024, description="keeps are multiples of 1/resolution of N")


@dataclass(frozen=True)
class Rung:
    """The schedule found for a tolerance."""

    tolerance: float
    schedule: Schedule


Climb = Generator[Step, Sequence[Answer], Rung]


@dataclass(frozen=True)
class Ladder:
    """One ladder: `climb` a rung at a time."""

    task: Task
    form: Form
    options: LadderOptions
    damage: Damage

    @classmethod
    def begin(cls, task: Task, form: Form, options: LadderOptions) -> Generator[Step, Sequence[Answer], Ladder]:
        """Measures, where neither a constraint nor the unpruned value says how much a loss is, what the strongest
        pruning loses, and takes that as the unit. Raises BadInput for a measure that the study does not have."""
        limit = records(task, options)
        ladder = cls(task, form, options, damage(task, options.measure, limit))
        if ladder.damage.unit == 0:
            first = ladder.places[0]
            worst = form.start.cut(first, ladder.levels(form.start, first)[0])
            (answer,) = yield Probes(PHASE, [Probe(document=form.document(worst), limit=limit)])
            ladder = cls(task, form, options, ladder.damage.by(answer))
        return ladder

    @property
    def tolerances(self) -> tuple[float, ...]:
        asked = self.options.tolerances
        return tuple(sorted(asked)) if asked is not None else ALLOWED if self.damage.allowed else RELATIVE

    @property
    def places(self) -> tuple[int, ...]:
        return self.form.places(self.options.block or math.ceil(len(self.form.layers) / PLACES))

    def climb(self, before: Rung, tolerance: float) -> Climb:
        """From one rung, whose schedule is the first to go on from, to the next."""
        schedule, places = before.schedule, self.places
        for number, place in enumerate(places, 1):
            most = before.tolerance + (tolerance - before.tolerance) * number / len(places)
            schedule = yield from self._least(schedule, place, most + EXACT)
        return Rung(tolerance, schedule)

    def _least(self, schedule: Schedule, place: int, most: float) -> Generator[Step, Sequence[Answer], Schedule]:
        """The schedule with the least kept from this place on whose damage is at most `most`."""
        cuts = [schedule.cut(place, level) for level in self.levels(schedule, place)]
        limit = records(self.task, self.options)

        def probe(index: int) -> Probe:
            return Probe(
                document=self.form.document(cuts[index]), limit=limit, measures=tuple(self.task.baseline.samples)
            )

        def good(answer: Answer) -> bool:
            return self.damage.of(answer) <= most

        search: Searched = first_good(len(cuts), self.task.width, probe, good, PHASE)
        return cuts[(yield from search)]

    def levels(self, schedule: Schedule, place: int) -> list[Fraction]:
        """Keeps to choose from at a place, the least first, what enters it last. Nothing at all only where what is
        dropped leaves no trace, and inside the model."""
        now, fine, tokens = schedule.at(place), self.options.resolution, self.task.proposals.tokens
        bare = place > 0 and self.form.template(place).merge.name == "drop"
        keeps = {Fraction(i, fine) for i in range(0 if bare else 1, fine)}
        if tokens:
            keeps = {Fraction(rounded(keep, tokens), tokens) for keep in keeps}
        return [*sorted(keep for keep in keeps if keep < now), now]


def climbed(task: Task, options: LadderOptions, trials: float = math.inf) -> Steps:
    """A ladder from the most that the best known point may keep, each rung measured in full; only as many rungs as
    `trials` pay for, and more of them only add rungs."""
    chosen = form(task, gentle(task, anchor(task)))
    ladder = yield from Ladder.begin(task, chosen, options)
    rung = Rung(0.0, chosen.start)
    step = records(task, options) / task.records
    each = len(ladder.places) * (options.resolution.bit_length() - 1) * step + 1
    for number, tolerance in enumerate(ladder.tolerances, 1):
        if number * each > trials:
            return
        rung = yield from ladder.climb(rung, tolerance)
        yield Probes("ladder", [Probe(document=chosen.document(rung.schedule))])


def records(task: Task, options: LadderOptions) -> int:
    """How many records a step is measured on."""
    return min(task.records, max(FEWEST, math.ceil(options.limit * task.records)))
