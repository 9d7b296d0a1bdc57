"""The highest scores, the early positions first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.errors import BadInput
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import Number, PartConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import Quota, StageView


class Debias(PartConfig):
    """factor: of k tokens to choose, floor(factor · k) by score come into question."""

    factor: Number = Field(default=1.5, ge=1)


def flops(config: Debias, sizes: Sizes) -> int:
    """0: sorting."""
    return 0


@part(
    "selector",
    "debias",
    Debias,
    flops=flops,
    needs=frozenset({"score"}),
    reads="order",
    paper="Balanced Token Pruning: Accelerating Vision Language Models Beyond Local Optimization (NeurIPS 2025)",
)
def debias(view: StageView, scores: Tensor | None, quota: Quota, free: Tensor, taken: Tensor, config: Debias) -> Tensor:
    """Of the best floor(factor · k) tokens, those at early positions by score, then the late ones by score.

    Attention of the last prompt token favours late positions. Early are as many as the stage keeps (in a group: as
    the group's share), counted over all visual tokens still there.
    """
    import torch

    from autoprune.pruning.tensors import best

    if scores is None:
        raise BadInput("selector 'debias' needs a score")
    wanted = quota.each
    among = best(scores, free, (wanted.double() * config.factor).floor().long())
    place = torch.arange(free.shape[1], device=free.device)
    early = place < (wanted if quota.stage is None else quota.stage)[:, None]
    first = best(scores, among & early, wanted)
    return first | best(scores, among & ~early, wanted - first.sum(1))
