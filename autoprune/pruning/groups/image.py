"""Every image of a sample by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.grouping import GroupConfig
from autoprune.pruning.parts import part, uncounted

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.models.family import ImageLayout


@part("group", "image", GroupConfig, flops=uncounted, paper="CATP (multi-image in-context learning, 2025)")
def image(layout: ImageLayout, config: GroupConfig) -> Tensor:
    """All tokens of an image together."""
    import torch

    return torch.zeros_like(layout.row)
