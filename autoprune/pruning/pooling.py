"""A grid cut into K cells, as adaptive average pooling cuts it, for any K.

h rows and w columns are cut into p bands: round(√(K·h/w)), which makes cells about square, but no more than there are
rows or cells, and enough for K cells. Band i is cut into floor((i+1)·K/p) - floor(i·K/p) cells: K in all, and for K =
p·q the regular p x q. It reaches from row floor(i·h/p) to row ceil((i+1)·h/p) - 1, so where p does not divide h bands
share a row; columns likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from autoprune.pruning.signals import PartConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.grouping import Partition
    from autoprune.pruning.view import StageView


class PoolConfig(PartConfig):
    """within: what is cut into cells, each by itself: every `segment` of an image (the overview, the tiles together) or
    every `tile`."""

    within: Literal["segment", "tile"] = "segment"


@dataclass(frozen=True, eq=False)
class Cells:
    """The cell of each token, all [B, V] int: its number in the sample (-1 for tokens that are in none), how far the
    token is from the cell's middle (squared), and the first and last row and column of the cell. Rows and columns
    are `row`, `column`, counted from those of the grid that is cut; `grid` numbers the grids of a sample."""

    number: Tensor
    distance: Tensor
    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor
    row: Tensor
    column: Tensor
    grid: Tensor


def grids(view: StageView, config: PoolConfig) -> Partition:
    """The grids that are cut."""
    from autoprune.pruning.parts import find
    from autoprune.pruning.plan import Use

    info = find("group", config.within)
    if info is None:
        raise LookupError(config.within)
    group: Any = info.config()
    return view.partition(Use(info.run, group))


def cut(view: StageView, there: Partition, counts: Tensor) -> Cells:
    """Cut each grid into counts [B, G] cells. Protected tokens belong to none."""
    import torch

    def over(values: Tensor, how: str) -> Tensor:
        """Smallest or largest value over the candidates of a grid, [B, G]."""
        start = 1 << 30 if how == "amin" else -1
        base = torch.full((values.shape[0], there.groups), start, dtype=torch.long, device=values.device)
        return base.scatter_reduce(1, there.ids, torch.where(view.candidates, values, start), how)

    def per_token(values: Tensor) -> Tensor:
        return values.gather(1, there.ids)

    rows, columns = view.grid.row, view.grid.column
    first_row, first_column = over(rows, "amin"), over(columns, "amin")
    height, width = (
        (over(rows, "amax") - first_row + 1).clamp(min=1),
        (over(columns, "amax") - first_column + 1).clamp(min=1),
    )
    some = counts.clamp(min=1)
    square = (some.double() * height.double() / width.double()).sqrt().add(0.5).floor().long()
    bands = torch.minimum(torch.maximum(square, -(-some // width)), torch.minimum(height, some)).clamp(min=1)

    row, column = rows - per_token(first_row), columns - per_token(first_column)
    count, p, h, w = (per_token(values) for values in (some, bands, height, width))
    band = ((2 * row + 1) * p // (2 * h)).clamp(min=0)
    band = torch.minimum(band, p - 1)
    before, after = band * count // p, (band + 1) * count // p
    across = (after - before).clamp(min=1)
    slot = torch.minimum(((2 * column + 1) * across // (2 * w)).clamp(min=0), across - 1)
    offset = per_token(counts.cumsum(1) - counts)
    number = (offset + before + slot).masked_fill(~view.candidates | (per_token(counts) == 0), -1)
    middle_row, middle_column = (2 * band + 1) * h // (2 * p), (2 * slot + 1) * w // (2 * across)
    return Cells(
        number,
        (row - middle_row) ** 2 + (column - middle_column) ** 2,
        band * h // p,
        -(-(band + 1) * h // p) - 1,
        slot * w // across,
        -(-(slot + 1) * w // across) - 1,
        row,
        column,
        there.ids,
    )


def central(cells: Cells, among: Tensor) -> Tensor:
    """Mask [B, V]: of each cell the one token `among` [B, V] that is nearest its middle, the first of equals."""
    import torch

    batch, width = among.shape
    there = among & (cells.number >= 0)
    slots = width + 1
    order = torch.arange(width, device=among.device)
    key = (cells.distance * width + order).masked_fill(~there, 1 << 62)
    number = torch.where(there, cells.number, width)
    least = torch.full((batch, slots), 1 << 62, dtype=torch.long, device=among.device)
    least = least.scatter_reduce(1, number, key, "amin")
    return there & (least.gather(1, number) == key)
