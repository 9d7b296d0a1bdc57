"""Whole rows of the grid, whatever they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.encoder_signals import Lattice
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig, Signal, Site

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class RowConfig(PartConfig):
    """No parameters."""

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (Lattice("rows"),)


def flops(config: RowConfig, sizes: Sizes) -> int:
    """0: the order depends on the grid alone and is found once."""
    return 0


@part(
    "criterion",
    "row",
    RowConfig,
    flops=flops,
    paper="FoPru: Focal Pruning for Efficient LVLMs (2024): rows are kept whole; here without a signal",
    needs=frozenset({"grid"}),
)
def row(view: StageView, config: RowConfig) -> Tensor:
    """How early a token's row comes when the rows of its grid are visited farthest first; a row's tokens are alike.

    So any number of rows lies evenly over the picture. A count that is no multiple of a row cuts the last one.
    """
    return view.provide(Lattice("rows"))
