"""The smallest budget that meets every constraint, by bisection: one number, few evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from autoprune.policy.bound import BUDGET
from autoprune.policy.parameters import Parameter
from autoprune.search.anchor import anchor
from autoprune.search.damage import qualities
from autoprune.search.refusals import no_constraint, no_range
from autoprune.search.section import first_good
from autoprune.search.strategy import Answer, Options, Probe, Probes, Steps, Task, strategy

PHASE = "bisection"


class BisectionOptions(Options):
    """How finely to bisect."""

    resolution: int = Field(64, ge=2, le=1000, description="how many budgets, or factors, the range is divided into")


@strategy(
    "bisection",
    BisectionOptions,
    paper="Ye et al., Fit and Prune: Fast and Training-free Visual Token Pruning for Multi-modal LLMs (2024)",
    refuses=(no_constraint, no_range),
)
def bisection(task: Task, options: BisectionOptions) -> Steps:
    """The smallest budget within the constraints, by bisection; in a space without a budget the smallest common factor
    of all keeps. Everything else stands as in the best reference that the space contains, else in the middle.

    Whether more may be dropped is up to the constraints on measured qualities. One that a cost misses only says that
    less must be kept.
    """
    values, quality = anchor(task), qualities(task)

    def probe(step: int) -> Probe:
        return Probe(values=_at(task, values, (step + 1) / options.resolution))

    def good(answer: Answer) -> bool:
        if answer.candidate is None or answer.state == "failed":
            return False
        known = {c.text: c.label for c in task.constraints}
        return all(slack <= 0 for text, slack in answer.slacks.items() if known.get(text) in quality)

    (most,) = yield Probes(PHASE, [probe(options.resolution - 1)])
    if good(most):  # a cost that is missed is no reason to keep more
        yield from first_good(options.resolution, task.width, probe, good, PHASE)


def _at(task: Task, values: Mapping[str, Any], part: float) -> dict[str, Any]:
    """A part of the budget's range; without a budget, every keep that part of its highest, within its range."""
    parameters = {p.name: p for p in task.proposals.parameters}
    if BUDGET in parameters:
        low, high = _range(parameters[BUDGET])
        return {**values, BUDGET: low + part * (high - low)}
    return {**values, **{name: _cut(parameters[name], part) for name in task.proposals.keeps & parameters.keys()}}


def _cut(keep: Parameter, part: float) -> float | int:
    low, high = _range(keep)
    number = min(max(low, part * high), high)
    return round(number) if keep.kind == "int" else number


def _range(parameter: Parameter) -> tuple[float, float]:
    if parameter.low is None or parameter.high is None:
        raise ValueError(f"{parameter.name} is no number")
    return float(parameter.low), float(parameter.high)
