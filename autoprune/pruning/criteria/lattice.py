"""Tokens spread over the grid, whatever they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.encoder_signals import Lattice
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig, Signal, Site

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class LatticeConfig(PartConfig):
    """No parameters."""

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (Lattice(),)


def flops(config: LatticeConfig, sizes: Sizes) -> int:
    """0: the order depends on the grid alone and is found once."""
    return 0


@part(
    "criterion",
    "lattice",
    LatticeConfig,
    flops=flops,
    paper="Balanced Token Pruning (NeurIPS 2025), its spatial seeds",
    needs=frozenset({"grid"}),
)
def lattice(view: StageView, config: LatticeConfig) -> Tensor:
    """How early a token comes when its image's grid is visited farthest first (Manhattan distance).

    The order is over the image's whole grid, also where earlier stages dropped tokens.
    """
    return view.provide(Lattice())
