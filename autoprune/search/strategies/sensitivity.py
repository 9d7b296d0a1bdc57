"""A table of what each layer can do without, solved exactly for every budget, then verified."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from pydantic import Field

from autoprune.search.forms import Reach, forms, reach
from autoprune.search.refusals import no_form, no_quality
from autoprune.search.schedule import Schedule
from autoprune.search.strategy import Answer, Options, Probe, Probes, Sample, Step, Steps, Task, strategy
from autoprune.search.table import Solved, solve
from autoprune.search.tabulate import Tabled, tabulate

VERIFY = "verify"
HIGH = Fraction(19, 20)  # a budget above saves nothing to speak of
PAPER = "additive damages as DOP (arXiv:2507.02909); a table and an exact solver as ModelOpt auto_quantize"


class SensitivityOptions(Options):
    """How much is spent on what."""

    share: float = Field(0.25, gt=0, le=1, description="part of the trials that the table may cost, at most")
    verify: int = Field(8, ge=1, description="solved schedules that are measured in full")
    criteria: int = Field(4, ge=1, description="ways to choose tokens that are compared, where the space has choices")
    measure: str | None = Field(
        None, description="damage in the table; the smoothest quality among objectives and constraints unless given"
    )
    then: Literal["bayesian", "none"] = Field("bayesian", description="what the trials that are left are spent on")


@strategy("sensitivity", SensitivityOptions, paper=PAPER, refuses=(no_quality, no_form))
def sensitivity(task: Task, options: SensitivityOptions) -> Steps:
    """Measures on a quarter of the records (16 to 128) what dropping tokens costs, layer by layer and keep by keep,
    takes the damage of several cuts to add up, and solves that table exactly for every budget; the best schedules are
    measured in full, those at the edge of the constraints and between the others; what is left of the trials is sampled
    from there.

    Such a schedule may have a stage at any layer that the space admits. `then: none` stops after the schedules.
    """
    found = forms(task, options.criteria)
    within = reach(task.proposals)
    tables = yield from tabulate(task, found, within.keep, options.share * task.trials, options.measure)
    if tables:
        yield from verify(task, tables, within, options.verify)
    if options.then == "bayesian":
        yield Sample("bayesian", "bayesian")


def verify(task: Task, tables: Sequence[Tabled], within: Reach, count: int) -> Generator[Step, Sequence[Answer], None]:
    """Measure the best schedules of `count` budgets in full: half of them spread evenly, the others where they tell
    most."""
    ranked = [(t, solve(t.table, t.form.depth, t.form.layers, task.proposals.tokens)) for t in tables]
    low = max(within.low, min(solved.lowest for _, solved in ranked))
    high = max(low, min(within.high, HIGH, *_bounds(task)))
    seen: dict[Schedule, bool] = {}
    known: dict[float, bool] = {}
    wanted = _spread(float(low), float(high), (count + 1) // 2)
    for _ in range(count):  # a budget may have the schedule of another one, so that a round brings nothing new
        asked = [(budget, *_best(ranked, budget)) for budget in wanted]
        new = {schedule: tabled for _, tabled, schedule in asked if schedule not in seen}
        if new:
            probes = [Probe(document=tabled.form.document(schedule)) for schedule, tabled in new.items()]
            answers = yield Probes(VERIFY, probes)
            seen |= {schedule: answer.feasible for schedule, answer in zip(new, answers, strict=True)}
        known |= {budget: seen[schedule] for budget, _, schedule in asked}
        wanted = halved(known, (count - len(seen) + 1) // 2)


def _bounds(task: Task) -> Iterable[Fraction]:
    """Upper bounds that constraints put on the budget itself."""
    for c in task.constraints:
        if c.measure.name == "budget" and c.op == "<=":
            yield Fraction(c.scale * task.baseline.values[c.label] + c.shift)


def _spread(low: float, high: float, count: int) -> list[float]:
    """So many budgets from low to high, each the same part of the next."""
    if count == 1 or high <= low:
        return [high]
    return [min(high, low * (high / low) ** (i / (count - 1))) for i in range(count)]


def _best(ranked: Sequence[tuple[Tabled, Solved]], budget: float) -> tuple[Tabled, Schedule]:
    """The schedule that does least harm of all forms'; the first form's of equals, where none is that small the
    smallest."""
    exact = Fraction(budget)
    tabled, solved = min(ranked, key=lambda entry: entry[1].damage(exact))
    schedule = solved.schedule(max(exact, solved.lowest))
    if schedule is None:
        raise ValueError("the smallest budget that has a schedule has none")
    return tabled, schedule


def halved(known: Mapping[float, bool], count: int) -> list[float]:
    """So many more budgets between known ones (budget -> feasible): where feasible ones end first, then in the widest
    gap between feasible ones; anywhere while none is feasible."""
    points: list[tuple[float, bool | None]] = sorted(known.items())
    chosen = []
    for _ in range(count):
        gaps = [(_worth(a[1], b[1], any(known.values())) * math.log(b[0] / a[0]), a, b) for a, b in pairwise(points)]
        gaps = [gap for gap in gaps if gap[0] > 0]
        if not gaps:
            break
        _, a, b = max(gaps, key=lambda gap: gap[0])
        middle = math.sqrt(a[0] * b[0])
        chosen.append(middle)
        points = sorted([*points, (middle, None)])
    return sorted(chosen)


def _worth(a: bool | None, b: bool | None, some: bool) -> float:
    """How much a gap tells, by whether its ends are feasible (None: not known yet)."""
    if a is False and b is False and some:
        return 0.0
    return 2.0 if {a, b} == {True, False} else 1.0
