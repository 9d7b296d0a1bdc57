"""Whether a visual token belongs to the query or to the demonstrations before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.pairs import Role as Of
from autoprune.pruning.parts import part, uncounted
from autoprune.pruning.signals import PartConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class Role(PartConfig):
    """of: `query` = the last picture (with no text between them, pictures), `context` = the pictures before it."""

    of: Of = "query"


@part(
    "criterion",
    "role",
    Role,
    flops=uncounted,
    paper="CATP: Contextually Adaptive Token Pruning for Efficient and Enhanced Multimodal In-Context Learning "
    "(AAAI 2026)",
)
def role(view: StageView, config: Role) -> Tensor:
    """1 for tokens of that role, 0 for others: in a mix, with a weight above all others, it shields them."""
    return view.pairs("projected").role(config.of).float()
