"""One token from the middle of each of K cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.pooling import PoolConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import Quota, StageView


def flops(config: PoolConfig, sizes: Sizes) -> int:
    """0: counting in integers."""
    return 0


@part(
    "selector",
    "pool",
    PoolConfig,
    flops=flops,
    reads="no",
    paper="adaptive average pooling; the merger `pool` averages",
    needs=frozenset({"grid"}),
)
def pool(
    view: StageView, scores: Tensor | None, quota: Quota, free: Tensor, taken: Tensor, config: PoolConfig
) -> Tensor:
    """The grid cut into as many cells as tokens are wanted, and of each the token at its middle.

    Several grids share the count in proportion to their free tokens. In a cell that has lost its middle the nearest
    token stands in; for a cell that has lost all, the token nearest the middle of its own cell that is left.
    In a `group` each group is cut by itself (of a row, so many tokens at even distances); the merger `pool` goes on
    averaging over cells of whole grids.
    """
    import torch

    from autoprune.pruning.grouping import allocate, sums
    from autoprune.pruning.pooling import central, cut, grids
    from autoprune.pruning.tensors import best

    there = grids(view, config)
    sizes = sums(there, free.double()).long()
    cells = cut(view, there, allocate(quota.each, sizes, sizes))
    hit = central(cells, free)
    nearness = torch.where(hit, 1.0, -cells.distance.float())
    return best(nearness, free, quota.each)
