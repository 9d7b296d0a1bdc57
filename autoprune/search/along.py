"""What the strategies share that search a curve: the greedy ladder, the curve fitted to each of its rungs, then the
curve's shape and all else that the space leaves open by Bayesian optimisation."""

from __future__ import annotations

from autoprune.search.anchor import anchor, form, gentle
from autoprune.search.curve_fit import fitted
from autoprune.search.ladder import Ladder, LadderOptions, Rung
from autoprune.search.strategy import Probe, Probes, Sample, Steps, Task


def along(task: Task, options: LadderOptions, name: str) -> Steps:
    """The steps, the last ones in a phase called after the curve."""
    values = anchor(task)
    chosen = form(task, gentle(task, values))
    ladder = yield from Ladder.begin(task, chosen, options)
    rung = Rung(0.0, chosen.start)
    for tolerance in ladder.tolerances:
        rung = yield from ladder.climb(rung, tolerance)
        point = fitted(task.proposals, values, rung.schedule, task.seed)
        if point is not None:
            yield Probes("fitted", [Probe(values=point)])
    yield Sample(name, "bayesian")
