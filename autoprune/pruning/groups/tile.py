"""Tiles of a picture that the tower sees in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from autoprune.pruning.grouping import GroupConfig
from autoprune.pruning.parts import part, uncounted
from autoprune.pruning.signals import Number

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.models.family import ImageLayout
    from autoprune.pruning.grouping import Partition
    from autoprune.pruning.view import StageView


class Tile(GroupConfig):
    """split: as of every group, or `overview`: of an image's part of the count its overview gets the share `overview`,
    and a tile as much of the rest as it covers of the overview's best tokens (the best 1 - `overview` of them, by
    `allocate`). Images have parts in proportion to their tokens; one without tiles is a group by itself."""

    split: Literal["equal", "size", "proportional", "mean", "whole", "rule", "pooled", "overview"] = "equal"  # type: ignore[assignment]
    overview: Number = Field(default=0.5, gt=0, lt=1)

    def weights(self, there: Partition, view: StageView, scores: Tensor | None, free: Tensor) -> Tensor:
        from autoprune.pruning.overview import seen_from_above

        if self.split == "overview":
            return seen_from_above(there, view, scores, free, self.overview)
        return super().weights(there, view, scores, free)


@part("group", "tile", Tile, flops=uncounted, paper="HiRED: Attention-Guided Token Dropping (AAAI 2025)")
def tile(layout: ImageLayout, config: Tile) -> Tensor:
    """What one input of the tower became: the overview is one tile, a picture without tiles too.

    A newline belongs to the tile before it.
    """
    import torch

    if layout.tiles == 1:
        return torch.zeros_like(layout.row)
    first = int(layout.source[layout.source >= 0].amin())
    patches = int(((layout.segment == 0) & (layout.source >= 0)).sum())  # the overview has all of its tile's
    number = torch.where(layout.source >= 0, (layout.source - first) // patches, -1)
    order = torch.arange(len(number))
    last = torch.where(number >= 0, order, 0).cummax(0).values
    return number[last].clamp(min=0)
