"""Kept tokens take in the dropped ones around them on the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.stage import Kept
    from autoprune.pruning.view import StageView

FAR = 2**62  # beyond any squared distance on a grid


class Cell(PartConfig):
    """side: rows and columns of a cell, in tokens. 1 merges nothing."""

    side: int = Field(default=3, ge=1)


def flops(config: Cell, sizes: Sizes) -> int:
    """2·K·V·d for W x, which is dense; places are compared, not multiplied."""
    return 2 * sizes.kept * sizes.current * sizes.geometry.width


@part(
    "merger",
    "cell",
    Cell,
    flops=flops,
    reads="value",
    paper="VFlowOpt: A Token Pruning Framework for LMMs with Visual Information Flow-Guided Optimization (ICCV 2025)",
)
def cell(view: StageView, kept: Kept, config: Cell) -> Tensor:
    """Average by score and mass within cells of side x side tokens; each mean stands where its kept token stood.

    Every segment of every image has its own grid of cells. A dropped token joins the kept, not protected token of its
    cell that is nearest on the grid (squared distance; ties to the earlier). In a cell without one it is lost, with
    its mass. Scores at or below 0 weigh (almost) nothing; without scores all members weigh the same. VFlowOpt's cells
    are rows of their own, made of dropped tokens only; here K is fixed, so the cell's best kept token takes that place.
    """
    import torch

    from autoprune.pruning.merging import by_score, itself, joined, taking, unselected

    def apart(places: Tensor) -> Tensor:
        """[B, K, V]: place of the token less that of the row."""
        return places[:, None] - places.gather(1, kept.index)[..., None]

    grid, side = view.grid, config.side
    same = (apart(grid.image) == 0) & (apart(grid.segment) == 0)
    same = same & (apart(grid.row // side) == 0) & (apart(grid.column // side) == 0)
    same = same & taking(view, kept)[..., None]
    distance = (apart(grid.row) ** 2 + apart(grid.column) ** 2).masked_fill(~same, FAR)
    shortest = distance.amin(1)
    rows = kept.index.shape[1]
    order = torch.arange(rows, device=distance.device)[:, None]
    target = torch.where(distance == shortest[:, None], order, rows).amin(1)
    joins = joined(target, unselected(view, kept) & (shortest < FAR), rows)
    return by_score(joins | itself(view, kept), kept.scores)
