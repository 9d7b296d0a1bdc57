"""Keep is multiplied by the same ratio every so many layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.policy.curved import curved
from autoprune.policy.space import BoundSpace
from autoprune.search.along import along
from autoprune.search.ladder import LadderOptions
from autoprune.search.refusals import no_form, no_quality
from autoprune.search.strategy import Steps, Task, strategy

PAPER = "Xing et al., PyramidDrop: Accelerating Your Large Vision-Language Models (2024)"


def space(document: Mapping[str, Any], bound: BoundSpace, options: LadderOptions) -> dict[str, Any]:
    """The curve in place of the stages inside the language model."""
    return curved(document, bound, "geometric")


@strategy("geometric", LadderOptions, paper=PAPER, refuses=(no_quality, no_form), derives=space)
def geometric(task: Task, options: LadderOptions) -> Steps:
    """Keep is multiplied every so many layers by a ratio that the budget decides, with the parts of the space's first
    stage inside the language model. Its shape begins with fits to a greedy ladder; Bayesian optimisation goes on."""
    yield from along(task, options, "geometric")
