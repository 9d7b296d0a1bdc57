"""The dropped tokens live on in one extra row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.stage import Kept
    from autoprune.pruning.view import StageView


class Residual(PartConfig):
    """No parameters."""

    def extra(self, kept: int, current: int) -> int:
        return 1


def flops(config: Residual, sizes: Sizes) -> int:
    """2·K·V·d for W x, which is dense."""
    return 2 * sizes.kept * sizes.current * sizes.geometry.width


@part(
    "merger",
    "residual",
    Residual,
    flops=flops,
    reads="value",
    paper="EViT: Expediting Vision Transformers via Token Reorganizations (ICLR 2022)",
)
def residual(view: StageView, kept: Kept, config: Residual) -> Tensor:
    """One of the K rows is the mean of all dropped tokens, weighted by score and mass, at the place of the best one.

    EViT's fused token is the sum weighted by attention; as a mean it keeps the scale of a token. Scores at or below 0
    weigh (almost) nothing; without scores, or where all are alike, all tokens weigh the same.
    """
    from autoprune.pruning.merging import fused, itself

    selected = itself(view, kept) & ~kept.extra[..., None]
    return selected + fused(view, kept)
