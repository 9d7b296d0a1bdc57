"""A table of what each layer can do without, solved exactly for every budget, then verified."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autoprune.search.forms import forms, reach
from autoprune.search.refusals import no_form, no_quality
from autoprune.search.strategy import Options, Sample, Steps, Task, strategy
from autoprune.search.tabulate import tabulate
from autoprune.search.verifying import verify

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
    """Measures on an eighth of the records (16 to 128) what dropping tokens costs, layer by layer and keep by keep,
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
