"""The dropped tokens are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.parts import part
from autoprune.pruning.signals import PartConfig

if TYPE_CHECKING:
    from autoprune.pruning.stage import Kept
    from autoprune.pruning.view import StageView


class Drop(PartConfig):
    """No parameters."""


@part("merger", "drop", Drop, reads="no")
def drop(view: StageView, kept: Kept, config: Drop) -> None:
    """Keep the selected rows as they are."""
    return
