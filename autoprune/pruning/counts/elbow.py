"""As many tokens as stand before the bend of the curve of falling scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.counting import CountConfig
from autoprune.pruning.parts import part, uncounted

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class Elbow(CountConfig):
    """No parameters."""


STRAIGHT = 1e-6  # of the highest score: what rounding makes of a straight curve


@part(
    "count",
    "elbow",
    Elbow,
    flops=uncounted,
    needs=frozenset({"score"}),
    paper="CoreMatching (ICML 2025): the largest distance from the chord",
)
def elbow(view: StageView, scores: Tensor, among: Tensor, config: Elbow) -> Tensor:
    """The place of the score farthest from the line between the highest and the lowest, from 1.

    The first of equally far ones; all where the curve is straight."""
    import torch

    from autoprune.pruning.counting import at_least_one, finite

    seen = finite(scores, among)
    count = seen.sum(1, keepdim=True)
    curve = scores.double().masked_fill(~seen, float("-inf")).sort(1, descending=True).values
    place = torch.arange(curve.shape[1], device=curve.device)
    inside = place < count
    last = curve.gather(1, (count - 1).clamp(min=0))
    chord = curve[:, :1] + (last - curve[:, :1]) * place / (count - 1).clamp(min=1)
    height = (curve - chord).abs().masked_fill(~inside, 0)  # in proportion to the distance from the line
    highest = height.amax(1, keepdim=True)
    first = torch.where(height >= highest * (1 - 1e-12), place, curve.shape[1]).amin(1)
    straight = (highest[:, 0] <= STRAIGHT * torch.maximum(curve[:, 0].abs(), last[:, 0].abs())) | (count[:, 0] < 3)
    return at_least_one(torch.where(straight, count[:, 0], first + 1), among)
