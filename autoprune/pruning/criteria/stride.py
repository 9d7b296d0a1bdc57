"""Every s-th row and column of the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class GridStride(PartConfig):
    """every: s. Rows and columns count from 0 in each segment of an image."""

    every: int = Field(default=3, ge=1, strict=True)


def flops(config: GridStride, sizes: Sizes) -> int:
    """0: counting."""
    return 0


@part(
    "criterion",
    "stride",
    GridStride,
    flops=flops,
    paper="Feather the Throttle: Revisiting Visual Token Pruning for Vision-Language Model Acceleration (ICCV 2025)",
    needs=frozenset({"grid"}),
)
def stride(view: StageView, config: GridStride) -> Tensor:
    """1 on a grid of every s-th row and column, 0 elsewhere.

    Meant for a pick of as many tokens as the grid has: of equal scores the first win. The selector `stride` spaces any
    number evenly along the raster order, `lattice` orders all tokens in two dimensions.
    """
    grid = view.grid
    return ((grid.row % config.every == 0) & (grid.column % config.every == 0)).float()
