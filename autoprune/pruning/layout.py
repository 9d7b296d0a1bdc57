"""The translation between logical (unpruned) and physical (pruned) columns of a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoprune.pruning.tensors import take, true_last

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """Which logical column each physical column holds.

    index [B, n] int; valid [B, n] bool or None where every column is real; logical = length of the unpruned sequence.
    next_position [B] int is the position id of the first generated token where it is not the logical one (`compact`).
    bias [B, n] float32 is added to every attention logit of a column's key, where a stage attends by mass.
    """

    index: Tensor
    valid: Tensor | None
    logical: int
    positions: Tensor | None = None
    next_position: Tensor | None = None
    bias: Tensor | None = None

    @property
    def width(self) -> int:
        return int(self.index.shape[1])

    def select(self, keep: Tensor, lengths: Sequence[int]) -> tuple[Layout, Tensor]:
        """Keep the columns of mask [B, n]; `lengths` says how many each sample has. Samples end together.

        Returns the new layout and the old physical columns [B, m] it is made of.
        """
        columns = true_last(keep, max(lengths))
        valid = None if min(lengths) == max(lengths) else keep.gather(1, columns)
        positions = None if self.positions is None else self.positions.gather(1, columns)
        bias = None if self.bias is None else self.bias.gather(1, columns)
        new = Layout(self.index.gather(1, columns), valid, self.logical, positions, self.next_position, bias)
        return new, columns

    def compacted(self) -> Layout:
        """The same columns numbered 0, 1, … per sample; generated tokens continue that count."""
        import torch

        if self.valid is None:
            positions = torch.arange(self.width, device=self.index.device).expand_as(self.index)
        else:
            positions = (self.valid.long().cumsum(1) - 1).clamp(min=0)
        return replace(self, positions=positions, next_position=positions[:, -1] + 1)

    def map(self, pick: Callable[[Tensor], Tensor]) -> Layout:
        """Apply a batch operation (beam reorder, repeat) to every tensor."""

        def each(values: Tensor | None) -> Tensor | None:
            return None if values is None else pick(values)

        positions, following = each(self.positions), each(self.next_position)
        return Layout(pick(self.index), each(self.valid), self.logical, positions, following, each(self.bias))

    def scatter(self, values: Tensor) -> Tensor:
        """Physical values [B, n, ...] into logical columns [B, logical, ...]; dropped columns are zero."""
        wide = self.index.view(*self.index.shape, *[1] * (values.ndim - 2)).expand_as(values)
        if self.valid is not None:
            values = values.masked_fill(~self.valid.view(*self.valid.shape, *[1] * (values.ndim - 2)), 0)
        return values.new_zeros(values.shape[0], self.logical, *values.shape[2:]).scatter(1, wide, values)

    def gather(self, values: Tensor) -> Tensor:
        """Logical values [B, logical] at the physical columns."""
        return take(values, self.index, 1)
