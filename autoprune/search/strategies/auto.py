"""The default: know the layers, search the space, refine what came out."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pydantic import Field

from autoprune.errors import BadInput
from autoprune.search.anchor import anchor, form, gentle
from autoprune.search.damage import qualities
from autoprune.search.forms import forms, reach
from autoprune.search.ladder import ALLOWED, Ladder, LadderOptions, Rung
from autoprune.search.refining import Refining, known_spots
from autoprune.search.strategies.sensitivity import verify
from autoprune.search.strategy import Answer, Options, Probe, Probes, Sample, Step, Steps, Task, Tell, strategy
from autoprune.search.table import Table
from autoprune.search.tabulate import PREFERRED, tabulate

PREPARED = 5  # evaluations that tell something of the layers; where the part for it is less, it goes to sampling
REFINED = 24  # trials beside the references, before some are kept for refining
CRITERIA = 4
EARLIER = ("references", "verify", "ladder", "bayesian")


class AutoOptions(Options):
    """How the trials that the references leave are shared out."""

    prepare: float = Field(0.125, ge=0, lt=1, description="part for a table of the layers' damages, or a greedy ladder")
    refine: float = Field(0.15, ge=0, lt=1, description="part for refining the front's members layer by layer")


@dataclass(frozen=True)
class Split:
    """Trials by what they are spent on."""

    prepare: float
    sample: int
    refine: int

    @classmethod
    def of(cls, task: Task, options: AutoOptions) -> Split:
        left = task.trials - task.references
        refine = int(options.refine * left) if left >= REFINED else 0
        prepare = options.prepare * left if options.prepare * left >= PREPARED else 0.0
        return cls(prepare, left - refine - int(prepare), refine)


@strategy("auto", AutoOptions)
def auto(task: Task, options: AutoOptions) -> Steps:
    """References first; then what each layer can do without, as a table that is solved exactly for every budget (or,
    without a smooth measure, a greedy ladder); then Bayesian optimisation over the space from there; at last the
    front's members get keeps of their own in every layer. How the trials are shared out is said at the start."""
    split = Split.of(task, options)
    how = _how(task) if split.prepare or split.refine else "nothing"
    yield Tell(_said(task, split, how))
    table: Table | None = None
    if split.prepare and how == "table":
        table = yield from _tabled(task, split.prepare)
    elif split.prepare and how == "ladder":
        yield from _climbed(task, split.prepare)
    yield Sample("bayesian", "bayesian", split.sample)
    if split.refine and how != "nothing":
        yield from Refining(task, known_spots(task, *EARLIER), table).run(split.refine)
    yield Sample("bayesian", "bayesian")


def _how(task: Task) -> str:
    """`table`, `ladder`, or `nothing` where schedules cannot stand in the space or no measure says what is lost."""
    known = qualities(task)
    try:
        forms(task, 1)
    except BadInput:
        return "nothing"
    if any(label.startswith(PREFERRED) for label in known):
        return "table"
    return "ladder" if known else "nothing"


def _said(task: Task, split: Split, how: str) -> str:
    parts = [f"{task.references} references"] if task.references else []
    prepare = split.prepare if how != "nothing" else 0.0
    if prepare and how == "table":
        parts.append(f"about {split.prepare:.0f} for a table of what each layer can do without and its best schedules")
    elif prepare:
        parts.append(f"about {split.prepare:.0f} for a greedy ladder")
    refine = split.refine if how != "nothing" else 0
    parts.append(f"about {task.trials - task.references - refine - prepare:.0f} Bayesian")
    if refine:
        parts.append(f"{refine} to refine the front layer by layer")
    return f"auto: {task.trials} trials: {', '.join(parts)}"


def _tabled(task: Task, trials: float) -> Generator[Step, Sequence[Answer], Table | None]:
    """Two thirds for the table, a third for its best schedules."""
    within = reach(task.proposals)
    tables = yield from tabulate(task, forms(task, CRITERIA), within.keep, 2 * trials / 3)
    if not tables:
        return None
    yield from verify(task, tables, within, max(2, int(trials / 3)))
    return tables[0].table


def _climbed(task: Task, trials: float) -> Generator[Step, Sequence[Answer], None]:
    """As many rungs as the trials pay for; more of them only add rungs."""
    chosen = form(task, gentle(task, anchor(task)))
    ladder = yield from Ladder.begin(task, chosen, LadderOptions(limit=1 / 8))
    rung = Rung(0.0, chosen.start)
    probes = len(ladder.places) * (ladder.options.resolution.bit_length() - 1)
    each = probes * ladder.options.limit + 1
    for tolerance in ladder.tolerances[: min(len(ALLOWED), int(trials / each))]:
        rung = yield from ladder.climb(rung, tolerance)
        yield Probes("ladder", [Probe(document=chosen.document(rung.schedule))])
