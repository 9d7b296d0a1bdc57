"""Tiles of a picture that the tower sees in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.grouping import GroupConfig
from autoprune.pruning.parts import part, uncounted

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.models.family import ImageLayout


@part("group", "tile", GroupConfig, flops=uncounted, paper="HiRED: Attention-Guided Token Dropping (AAAI 2025)")
def tile(layout: ImageLayout, config: GroupConfig) -> Tensor:
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
