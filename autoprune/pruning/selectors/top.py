"""The highest scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.errors import BadInput
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import Quota, StageView


class Top(PartConfig):
    """No parameters."""


def flops(config: Top, sizes: Sizes) -> int:
    """0: sorting."""
    return 0


@part("selector", "top", Top, flops=flops, needs=frozenset({"score"}), reads="order")
def top(view: StageView, scores: Tensor | None, quota: Quota, free: Tensor, taken: Tensor, config: Top) -> Tensor:
    """The `keep` highest-scoring tokens; equal scores go to the earlier token."""
    from autoprune.pruning.tensors import best

    if scores is None:
        raise BadInput("selector 'top' needs a score")
    return best(scores, free, quota.each)
