"""Rows of the picture's grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.grouping import GroupConfig
from autoprune.pruning.parts import part, uncounted

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.models.family import ImageLayout


@part(
    "group",
    "row",
    GroupConfig,
    flops=uncounted,
    paper="FoPru: Focal Pruning for Efficient LVLMs (2024), row strategy",
    needs=frozenset({"grid"}),
)
def row(layout: ImageLayout, config: GroupConfig) -> Tensor:
    """Tokens of one grid row; the overview's rows and the tiles' are different rows."""
    overview = layout.row.masked_fill(layout.segment > 0, 0).amax() + 1
    return layout.row + layout.segment * overview
