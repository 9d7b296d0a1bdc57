"""A spread-out set: each new token is the least like all those already chosen together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import SpaceConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import Quota, StageView


class Spread(SpaceConfig):
    """space: which feature rows likeness (cosine) is measured on."""


class SummedLikeness:
    """- Σ cos to the chosen tokens."""

    def __init__(self, rows: Tensor, taken: Tensor) -> None:
        self.rows = rows
        together = rows.masked_fill(~taken[..., None], 0).sum(1, keepdim=True)
        self.total = (rows @ together.transpose(1, 2))[..., 0]

    def values(self) -> Tensor:
        return -self.total

    def add(self, index: Tensor) -> None:
        from autoprune.pruning.greedy import cosine_to

        self.total = self.total + cosine_to(self.rows, index)


def flops(config: Spread, sizes: Sizes) -> int:
    """2·(k + 1)·V·w for the k steps and the earlier picks, and 2·V²·w for a start without scores."""
    start = 0 if sizes.scored else sizes.current
    return config.comparing(sizes, (sizes.kept + 1 + start) * sizes.current)


@part(
    "selector",
    "spread",
    Spread,
    flops=flops,
    reads="order",
    paper="ToDRE: Visual Token Pruning via Diversity and Task Awareness (2025), the max-sum rule of its second version",
)
def spread(view: StageView, scores: Tensor | None, quota: Quota, free: Tensor, taken: Tensor, config: Spread) -> Tensor:
    """Max-sum cosine distance, greedily: argmin_i Σ_j cos_ij over the chosen j.

    Starts from earlier picks where there are any, else from the best score (ToDRE: attention of the class token), else
    from the token whose nearest neighbour is farthest.
    """
    from autoprune.pruning.greedy import greedy, start
    from autoprune.pruning.tensors import unit

    rows = unit(config.features(view))
    return greedy(SummedLikeness(rows, taken), quota, free, start(rows, scores, free, taken))
