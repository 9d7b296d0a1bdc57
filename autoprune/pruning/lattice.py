"""The cells of a grid in the order that always takes the one farthest from those before it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.models.family import ImageLayout


def lattice_scores(layout: ImageLayout, of: Literal["cells", "rows"] = "cells") -> Tensor:
    """How early each of an image's n tokens, or its row, comes in its segment, [n] on the CPU: 1 for the first, down to
    1/size.

    As shares, so that segments and images of different size keep alike much of each. Newlines get 0.
    """
    scores = torch.zeros(len(layout.source))
    for segment in (0, 1):
        cells = ((layout.segment == segment) & (layout.source >= 0)).nonzero()[:, 0]
        if len(cells):
            row, column = layout.row[cells], layout.column[cells]
            if of == "rows":
                height = int(row.max()) + 1
                scores[cells] = (1 - _places(tuple(range(height)), (0,) * height) / height)[row]
            else:
                scores[cells] = 1 - _places(tuple(row.tolist()), tuple(column.tolist())) / len(cells)
    return scores


@functools.lru_cache(maxsize=256)
def _places(rows: tuple[int, ...], columns: tuple[int, ...]) -> Tensor:
    """Place [n] of each cell in farthest-point order by Manhattan distance, from the first cell; ties to the front.

    On the host and once per grid: it depends on nothing that is computed.
    """
    row, column, order = torch.tensor(rows), torch.tensor(columns), torch.arange(len(rows))
    gap = torch.full_like(order, int(row.max() + column.max()) + 1)
    place, cell = torch.zeros_like(order), 0
    for step in range(len(rows)):
        place[cell] = step
        gap = torch.minimum(gap, (row - row[cell]).abs() + (column - column[cell]).abs())
        gap[cell] = -1
        cell = int((gap * len(rows) - order).argmax())  # no two are equal, so any argmax finds the first
    return place
