"""Keep falls in a few steps, each at a place of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from autoprune.policy.curved import stepped
from autoprune.policy.space import BoundSpace
from autoprune.search.along import along
from autoprune.search.ladder import LadderOptions
from autoprune.search.refusals import no_form, no_quality
from autoprune.search.strategy import Steps, Task, strategy


class StepsOptions(LadderOptions):
    """How many steps, beside how the ladder is climbed that they are fitted to."""

    n: int = Field(3, ge=1, le=16, description="how many stages")


def space(document: Mapping[str, Any], bound: BoundSpace, options: StepsOptions) -> dict[str, Any]:
    """So many stages in place of those inside the language model."""
    return stepped(document, bound, options.n)


@strategy("steps", StepsOptions, refuses=(no_quality, no_form), derives=space)
def steps(task: Task, options: StepsOptions) -> Steps:
    """Keep falls in n steps; where, and how far, is searched, and the last keep follows from the budget. The parts are
    those of the space's first stage inside the language model. The search begins with fits to a greedy ladder."""
    yield from along(task, options, "steps")
