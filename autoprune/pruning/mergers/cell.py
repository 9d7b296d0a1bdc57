"""The dropped tokens of a cell of the grid live on in one row."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from autoprune.document.numbers import exact
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import Number, PartConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.stage import Anchored, Kept
    from autoprune.pruning.view import StageView

FAR = 2**62  # beyond any squared distance on a grid


class Cell(PartConfig):
    """side: rows and columns of a cell, in tokens, of any length: a cell takes in what starts in it. 1 merges nothing.
    into: what becomes of a cell's dropped tokens. `kept`: they join the kept token of the cell that is nearest on the
    grid. `own`: they are a row of their own at the place of the best of them (VFlowOpt), one for every side² tokens; K
    counts these rows."""

    side: Number = Field(default=3, ge=1)
    into: Literal["kept", "own"] = "kept"

    def extra(self, kept: int, current: int) -> int:
        """floor(V / side²) rows, at most K."""
        side = Fraction(exact(self.side)).limit_denominator(10**6)
        return min(int(current / side**2), kept) if self.into == "own" else 0


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
    needs=frozenset({"grid"}),
)
def cell(view: StageView, kept: Kept, config: Cell) -> Tensor | Anchored:
    """Average by score and mass within cells of side x side tokens, every segment of every image apart.

    Into `kept`: a dropped token joins the kept, not protected token of its cell that is nearest on the grid (squared
    distance; ties to the earlier); in a cell without one it is lost, with its mass. Into rows of their `own`: the cells
    with the best dropped tokens get the rows, the others are lost (the release plans as many rows, but makes one of
    every cell); rows to spare are the best of the tokens left, alone. Scores at or below 0 weigh (almost) nothing;
    without scores all members weigh the same.
    """
    number = _cells(view, float(config.side))
    return _own_rows(view, kept, number) if config.into == "own" else _into_kept(view, kept, number)


def _cells(view: StageView, side: float) -> Tensor:
    """The number of each token's cell, [B, V] int64: alike for the tokens of one cell, rising in no special order."""
    import torch

    grid = view.grid
    row, column = ((places.double() / side).floor().long() for places in (grid.row, grid.column))
    found = torch.zeros_like(row)
    for places in (grid.image.long(), grid.segment.long(), row, column):
        found = found * (places.amax() + 1) + places
    return found


def _into_kept(view: StageView, kept: Kept, number: Tensor) -> Tensor:
    import torch

    from autoprune.pruning.merging import by_score, itself, joined, taking, unselected

    def apart(places: Tensor) -> Tensor:
        """[B, K, V]: place of the token less that of the row."""
        return places[:, None] - places.gather(1, kept.index)[..., None]

    same = (apart(number) == 0) & taking(view, kept)[..., None]
    distance = (apart(view.grid.row) ** 2 + apart(view.grid.column) ** 2).masked_fill(~same, FAR)
    shortest = distance.amin(1)
    rows = kept.index.shape[1]
    order = torch.arange(rows, device=distance.device)[:, None]
    target = torch.where(distance == shortest[:, None], order, rows).amin(1)
    joins = joined(target, unselected(view, kept) & (shortest < FAR), rows)
    return by_score(joins | itself(view, kept), kept.scores)


def _own_rows(view: StageView, kept: Kept, number: Tensor) -> Anchored:
    import torch

    from autoprune.pruning.merging import by_score, unselected
    from autoprune.pruning.stage import Anchored
    from autoprune.pruning.tensors import best, rank, true_first

    pool, count = unselected(view, kept), number.shape[1]
    place = rank(torch.zeros_like(view.mass) if kept.scores is None else kept.scores, pool)
    leads = _firsts(torch.where(pool, number, -1), place) & pool  # the best of every cell
    anchors = best(-(place + count * ~leads).float(), pool, kept.extra.sum(1))
    slots = (kept.extra.long().cumsum(1) - 1).clamp(min=0)
    index = torch.where(kept.extra, true_first(anchors, kept.index.shape[1]).gather(1, slots), kept.index)
    shared = (kept.extra & leads.gather(1, index))[..., None] & (pool & ~(anchors & ~leads))[:, None]
    joins = shared & (number.gather(1, index)[..., None] == number[:, None])
    own = torch.nn.functional.one_hot(index, count).bool()
    return Anchored(by_score(joins | own, kept.scores), index)


def _firsts(number: Tensor, place: Tensor) -> Tensor:
    """Mask [B, V] of the token of each number with the lowest place."""
    import torch

    order = place.argsort(1)
    order = order.gather(1, number.gather(1, order).argsort(dim=1, stable=True))
    sorted_numbers = number.gather(1, order)
    first = torch.ones_like(sorted_numbers, dtype=torch.bool)
    first[:, 1:] = sorted_numbers[:, 1:] != sorted_numbers[:, :-1]
    return torch.zeros_like(first).scatter(1, order, first)
