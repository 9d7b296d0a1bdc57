"""Kept tokens become the means of their cells of the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.pooling import PoolConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.stage import Kept
    from autoprune.pruning.view import StageView


def flops(config: PoolConfig, sizes: Sizes) -> int:
    """2·K·V·d for W x, which is dense."""
    return 2 * sizes.kept * sizes.current * sizes.geometry.width


@part(
    "merger",
    "pool",
    PoolConfig,
    flops=flops,
    reads="no",
    paper="adaptive average pooling; with the selector `pool`",
    needs=frozenset({"grid"}),
)
def pool(view: StageView, kept: Kept, config: PoolConfig) -> Tensor:
    """The mean over the cell of each kept token, the grid being cut into as many cells as it has kept tokens.

    With the selector `pool` that is adaptive average pooling. Under another one, of several kept tokens in a cell the
    one nearest its middle takes the mean and the others stay as they are, and what lies in a cell without one is lost.
    Protected tokens neither take in nor are taken in.
    """
    from autoprune.pruning.grouping import sums
    from autoprune.pruning.merging import itself
    from autoprune.pruning.pooling import central, cut, grids

    there = grids(view, config)
    chosen = kept.mask & view.candidates
    cells = cut(view, there, sums(there, chosen.double()).long())
    middle = central(cells, chosen)
    alone = chosen & ~middle

    def at_rows(values: Tensor) -> Tensor:
        return values.gather(1, kept.index)[..., None]

    inside = (at_rows(cells.grid) == cells.grid[:, None]) & (view.candidates & ~alone)[:, None]
    inside = inside & (at_rows(cells.top) <= cells.row[:, None]) & (cells.row[:, None] <= at_rows(cells.bottom))
    inside = inside & (at_rows(cells.left) <= cells.column[:, None]) & (cells.column[:, None] <= at_rows(cells.right))
    inside = inside & at_rows(middle & view.candidates)
    return (inside | itself(view, kept)).float()
