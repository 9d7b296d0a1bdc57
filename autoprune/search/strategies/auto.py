"""The default: know the layers, search the space, refine what came out."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from autoprune.errors import BadInput
from autoprune.search.damage import qualities
from autoprune.search.foreseen import drawn, foreseen
from autoprune.search.forms import forms, reach
from autoprune.search.ladder import LadderOptions, climbed
from autoprune.search.refining import Refining, known_spots
from autoprune.search.strategy import Answer, Options, Sample, Step, Steps, Task, Tell, strategy
from autoprune.search.table import Table
from autoprune.search.tabulate import PREFERRED, tabulate
from autoprune.search.verifying import verify

PREPARED = 10  # evaluations for a table (a quarter) and the points it chooses; more only in long searches
MOST = 0.95  # … but no larger part of what the references leave
LEAST = 5  # evaluations that pay for a table and some points, or a rung of a ladder; fewer go to sampling
REFINED = 24  # trials beside the references, before some are kept for refining
CRITERIA = 4
EARLIER = (
    "references",
    "foreseen",
    "verify",
    "ladder",
    "bayesian",
)  # what refining knows; never its own phase or later


class AutoOptions(Options):
    """How the trials that the references leave are shared out."""

    prepare: float = Field(0.125, ge=0, lt=1, description="part for a table of the layers' damages, or a greedy ladder")
    refine: float = Field(0.15, ge=0, lt=1, description="part for refining the front's members layer by layer")


@dataclass(frozen=True)
class Split:
    """Trials by what they are spent on; `by` is what prepares: `table`, `ladder`, or `nothing` where schedules cannot
    stand in the space or no measure says what is lost."""

    by: Literal["table", "ladder", "nothing"]
    prepare: float
    sample: int
    refine: int

    @classmethod
    def of(cls, task: Task, options: AutoOptions) -> Split:
        left, by = task.trials - task.references, _preparation(task)
        refine = int(options.refine * left) if left >= REFINED and by != "nothing" else 0
        prepare = options.prepare * left
        if by == "table" and options.prepare:
            prepare = max(prepare, min(PREPARED, MOST * left))
        if by == "nothing" or prepare < LEAST:
            prepare = 0.0
        return cls(by, prepare, left - refine - math.ceil(prepare), refine)


@strategy("auto", AutoOptions)
def auto(task: Task, options: AutoOptions) -> Steps:
    """References first; then what each layer can do without, as a table on few records, which chooses points of the
    space at the edge of the constraints and between the feasible ones (without a smooth measure: a greedy ladder); then
    Bayesian optimisation over the space from there; at last the front's members get keeps of their own in every layer.
    How the trials are shared out is said at the start.

    Short searches do without some of it: a ladder takes part from about 40 trials on, refining where the references
    leave 24.
    """
    split = Split.of(task, options)
    yield Tell(_said(task, split))
    table: Table | None = None
    if split.prepare and split.by == "table":
        table = yield from _tabled(task, split.prepare)
    elif split.prepare:
        yield from climbed(task, LadderOptions(), split.prepare)
    yield Sample("bayesian", "bayesian", split.sample)
    if split.refine:
        yield from Refining(task, known_spots(task, *EARLIER), table).run(split.refine)
    yield Sample("rest", "bayesian")


def _preparation(task: Task) -> Literal["table", "ladder", "nothing"]:
    known = qualities(task)
    try:
        forms(task, 1)
    except BadInput:
        return "nothing"
    if any(label.startswith(PREFERRED) for label in known):
        return "table"
    return "ladder" if known else "nothing"


def _said(task: Task, split: Split) -> str:
    parts = [f"{task.references} references"] if task.references else []
    if split.prepare and split.by == "table":
        parts.append(
            f"about {split.prepare:.0f} for a table of what each layer can do without and the points it chooses"
        )
    elif split.prepare:
        parts.append(f"about {split.prepare:.0f} for a greedy ladder")
    parts.append(f"about {task.trials - task.references - split.refine - split.prepare:.0f} Bayesian")
    if split.refine:
        parts.append(f"{split.refine} to refine the front layer by layer")
    return f"auto: {task.trials} trials: {', '.join(parts)}"


def _tabled(task: Task, trials: float) -> Generator[Step, Sequence[Answer], Table | None]:
    """A quarter for the table, the rest for what it chooses: points of the space, or its best schedules where points
    leave nothing open."""
    within = reach(task.proposals)
    tables = yield from tabulate(task, forms(task, CRITERIA), within.keep, trials / 4)
    if not tables:
        return None
    left, points = 3 * trials / 4, drawn(task, tables)
    yield from foreseen(task, points, left) if points else verify(task, tables, within, max(2, int(left)))
    return tables[0].table
