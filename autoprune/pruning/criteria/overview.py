"""The overview of a picture that the tower also sees in tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.parts import part, uncounted
from autoprune.pruning.signals import PartConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class Overview(PartConfig):
    """No parameters."""


@part(
    "criterion",
    "overview",
    Overview,
    flops=uncounted,
    paper="ToDRE: Visual Token Pruning via Diversity and Task Awareness (2025): begins on the thumbnail",
)
def overview(view: StageView, config: Overview) -> Tensor:
    """1 for tokens of an overview, 0 for those of tiles: in a product it leaves the tiles out. Every token of a picture
    without tiles is the overview's."""
    return (view.grid.segment == 0).float()
