"""A diverse set: each new token is the farthest from those already chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import SpaceConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.greedy import Likeness
    from autoprune.pruning.view import Quota, StageView


class Far(SpaceConfig):
    """space: which feature rows distances are measured on."""


class Distance:
    """1 - the highest cosine to a chosen token; infinite before the first."""

    def __init__(self, likeness: Likeness) -> None:
        self.likeness = likeness

    def values(self) -> Tensor:
        return 1 - self.likeness.highest

    def add(self, index: Tensor) -> None:
        self.likeness.add(index)


def flops(config: Far, sizes: Sizes) -> int:
    """2·k·V·w for the k steps, 2·V²·w for the distances to earlier picks, and again for a start without scores."""
    matrices = 1 if sizes.scored else 2
    return config.comparing(sizes, (sizes.kept + matrices * sizes.current) * sizes.current)


@part(
    "selector",
    "far",
    Far,
    flops=flops,
    reads="order",
    paper="DivPrune: Diversity-based Visual Token Pruning (CVPR 2025)",
)
def far(view: StageView, scores: Tensor | None, quota: Quota, free: Tensor, taken: Tensor, config: Far) -> Tensor:
    """Max-min cosine distance, greedily (DivPrune, Algorithm 1).

    Starts from earlier picks where there are any, else from the best score, else from the token whose nearest
    neighbour is farthest. One step per chosen token, each over the whole batch.
    """
    from autoprune.pruning.greedy import Likeness, greedy, start
    from autoprune.pruning.tensors import unit

    rows = unit(config.features(view))
    return greedy(Distance(Likeness(rows, taken)), quota, free, start(rows, scores, free, taken))
