"""Which of a table's schedules are worth a full measurement: budgets spread out first, then between what was found."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise

from autoprune.search.forms import Reach
from autoprune.search.schedule import Schedule
from autoprune.search.strategy import Answer, Probe, Probes, Step, Task
from autoprune.search.table import Solved, solve
from autoprune.search.tabulate import Tabled

VERIFY = "verify"
HIGH = Fraction(19, 20)  # a budget above saves nothing to speak of


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
