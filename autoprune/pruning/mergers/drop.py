"""The dropped tokens are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig

if TYPE_CHECKING:
    from autoprune.pruning.stage import Kept
    from autoprune.pruning.view import StageView


class Drop(PartConfig):
    """No parameters."""


def flops(config: Drop, sizes: Sizes) -> int:
    """0: rows are gathered."""
    return 0


@part("merger", "drop", Drop, flops=flops, reads="no")
def drop(view: StageView, kept: Kept, config: Drop) -> None:
    """Keep the selected rows as they are."""
    return
