"""What a pick may take beside its exact share: the neighbours of its tokens, and tokens that earlier picks have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from autoprune.pruning.tensors import best

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import Grid

ROW, SEGMENT = 1 << 20, 1 << 40  # longer than any row, larger than any segment; so no step leads into another row


def beside(grid: Grid, chosen: Tensor, valid: Tensor) -> Tensor:
    """Mask [B, V] of the tokens above, below, left and right of a chosen one [B, V], in its segment of its image."""
    place = (grid.image * 2 + grid.segment) * SEGMENT + grid.row * ROW + grid.column
    place = place.masked_fill(~valid, torch.iinfo(place.dtype).max)
    ordered, order = place.sort(dim=1)
    there = (chosen & valid).gather(1, order)
    found = torch.zeros_like(chosen)
    for step in (-ROW, -1, 1, ROW):
        neighbour = (place + step).masked_fill(~valid, -1)
        spot = torch.searchsorted(ordered, neighbour).clamp(max=place.shape[1] - 1)
        found = found | (there.gather(1, spot) & (ordered.gather(1, spot) == neighbour))
    return found & valid


def fitting(chosen: Tensor, first: Tensor, scores: Tensor | None, room: Tensor) -> Tensor:
    """At most `room` [B] of the chosen [B, V]: those that are `first` before the others, each by falling score."""
    values = torch.zeros(chosen.shape, device=chosen.device) if scores is None else scores
    kept = best(values, chosen & first, room)
    return kept | best(values, chosen & ~first, room - kept.sum(1))
