"""G-Search: layer by layer, as few tokens as a tolerance allows."""

from __future__ import annotations

from autoprune.search.ladder import LadderOptions, climbed
from autoprune.search.refusals import no_form, no_quality
from autoprune.search.strategy import Steps, Task, strategy

PAPER = "Accelerating Multimodal Large Language Models by Searching Optimal Vision Token Reduction (CVPR 2025)"


@strategy("greedy", LadderOptions, paper=PAPER, refuses=(no_quality, no_form))
def greedy(task: Task, options: LadderOptions) -> Steps:
    """From shallow to deep, at each layer or block the least tokens that stay within a tolerance of a measure, found by
    bisection on part of the records; one run gives a ladder of budgets, whose members are then measured in full.

    The loss is the measure's, from the unpruned model on the same records, without a margin. Of n places the i-th may
    bring it up to i/n of the rung's tolerance, so that deeper layers have what shallow ones leave over; a cut holds for
    all later layers. The next rung goes on from the one before. Ways to choose tokens are those of the best reference
    that the space contains, else of its middle; a place takes the parts of the space's stage at or before it. Keeps are
    not held to the space's ranges. With several workers the range is cut into more than two parts at once.
    """
    yield from climbed(task, options)
