"""The overview and the high-resolution picture of an image, each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.grouping import GroupConfig
from autoprune.pruning.parts import part, uncounted

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.models.family import ImageLayout


@part(
    "group",
    "segment",
    GroupConfig,
    flops=uncounted,
    paper="What Kind of Visual Tokens Do We Need? (G-Prune, AAAI 2025)",
)
def segment(layout: ImageLayout, config: GroupConfig) -> Tensor:
    """The overview, and all tiles together; an image without tiles is one group."""
    return layout.segment
