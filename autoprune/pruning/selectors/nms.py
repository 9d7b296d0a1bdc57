"""Non-maximum suppression: the best tokens, none of them too like another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.errors import BadInput
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import SpaceConfig
from autoprune.pruning.signals import Number

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.greedy import Likeness
    from autoprune.pruning.view import Quota, StageView


class Nms(SpaceConfig):
    """tau: highest cosine that two chosen tokens may have. space: which feature rows it is measured on."""

    tau: Number = Field(0.9, ge=-1, le=1)


class Unsuppressed:
    """Place by falling score, [B, V]; tokens that a chosen one suppresses come after all others, in the same order."""

    def __init__(self, likeness: Likeness, places: Tensor, tau: float) -> None:
        self.likeness, self.places, self.tau = likeness, places, tau

    def values(self) -> Tensor:
        suppressed = self.likeness.highest > self.tau
        return -(self.places + suppressed * self.places.shape[1]).float()

    def add(self, index: Tensor) -> None:
        self.likeness.add(index)


def flops(config: Nms, sizes: Sizes) -> int:
    """2·k·V·w for the k steps and 2·V²·w for the likeness to earlier picks."""
    return config.comparing(sizes, (sizes.kept + sizes.current) * sizes.current)


@part(
    "selector",
    "nms",
    Nms,
    flops=flops,
    needs=frozenset({"score"}),
    reads="order",
    paper="GreedyPrune: Retaining Critical Visual Token Set for Large Vision Language Models (2025)",
)
def nms(view: StageView, scores: Tensor | None, quota: Quota, free: Tensor, taken: Tensor, config: Nms) -> Tensor:
    """By falling score, a token is chosen if its cosine to every chosen one is at most tau; the rest by score.

    Suppressed tokens stay suppressed, so one visit in order is the same as this greedy loop. Earlier picks suppress,
    too. GreedyPrune also forces the last visual token: `protect: last`.
    """
    from autoprune.pruning.greedy import Likeness, greedy
    from autoprune.pruning.tensors import rank, unit

    if scores is None:
        raise BadInput("selector 'nms' needs a score")
    likeness = Likeness(unit(config.features(view)), taken)
    return greedy(Unsuppressed(likeness, rank(scores, free), config.tau), quota, free)
