"""Does pruning change what the model says?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.measures.registry import measure
from autoprune.measures.views import View
from autoprune.pruning.parts import Config

if TYPE_CHECKING:
    from torch import Tensor


class LoyaltyConfig(Config):
    """`max_new_tokens`: how much of the unpruned model's own answer is compared."""

    max_new_tokens: int = Field(16, ge=1, le=4096)


@measure("loyalty", LoyaltyConfig, direction="higher", needs={"own_answers"}, bounded=(0.0, 1.0))
def loyalty(view: View, config: LoyaltyConfig) -> Tensor:
    """1 where the pruned model gives the unpruned model's own greedy answer token for token, else 0."""
    return view.all_right()
