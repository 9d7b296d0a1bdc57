"""A diverse set of good tokens: distance to those already chosen times the score."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.errors import BadInput
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import SpaceConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.greedy import Likeness
    from autoprune.pruning.view import Quota, StageView


class FarTimesScore(SpaceConfig):
    """space: which feature rows distances are measured on."""


class WeightedDistance:
    """weight [B, V] x (1 - the highest cosine to a chosen token). Rounding below 0 counts as 0."""

    def __init__(self, likeness: Likeness, weight: Tensor) -> None:
        self.likeness, self.weight = likeness, weight

    def values(self) -> Tensor:
        return self.weight * (1 - self.likeness.highest).clamp(min=0)

    def add(self, index: Tensor) -> None:
        self.likeness.add(index)


def flops(config: FarTimesScore, sizes: Sizes) -> int:
    """2·k·V·w for the k steps and 2·V²·w for the distances to earlier picks."""
    return config.comparing(sizes, (sizes.kept + sizes.current) * sizes.current)


@part(
    "selector",
    "far_times_score",
    FarTimesScore,
    flops=flops,
    needs=frozenset({"score"}),
    reads="value",
    paper="ZOO-Prune: Training-Free Token Pruning via Zeroth-Order Gradient Estimation in VLMs (2025)",
)
def far_times_score(
    view: StageView, scores: Tensor | None, quota: Quota, free: Tensor, taken: Tensor, config: FarTimesScore
) -> Tensor:
    """s_i · min_j (1 - cos_ij) over the chosen j, greedily; s is the score scaled to [0, 1] over the candidates.

    Starts from earlier picks where there are any, else from the best score. Where all scores are alike it is `far`.
    """
    from autoprune.pruning.greedy import Likeness, greedy, start, unit_interval
    from autoprune.pruning.tensors import unit

    if scores is None:
        raise BadInput("selector 'far_times_score' needs a score")
    rows = unit(config.features(view))
    gain = WeightedDistance(Likeness(rows, taken), unit_interval(scores, view.candidates))
    return greedy(gain, quota, free, start(rows, scores, free, taken))
