"""Fewer tokens where the scores say clearly which matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.pruning.counting import CountConfig
from autoprune.pruning.parts import part, uncounted
from autoprune.pruning.signals import Number

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class Entropy(CountConfig):
    """target: the part of N that is to be reached in the end. rounds: how many such stages are left, this one
    included."""

    target: Number = Field(default=0.25, gt=0, le=1)
    rounds: int = Field(default=1, ge=1, strict=True)


@part(
    "count",
    "entropy",
    Entropy,
    flops=uncounted,
    needs=frozenset({"score"}),
    paper="FlowCut: Unveiling and Utilizing Token Redundancy through Information Flow (NeurIPS 2025)",
)
def entropy(view: StageView, scores: Tensor, among: Tensor, config: Entropy) -> Tensor:
    """n - round((n - K) / sqrt(R) · (1 - (H / ln n)²)), H the entropy of the scores scaled to sum 1.

    Negative scores count as nothing. K tokens never go."""
    import torch

    from autoprune.pruning.counting import at_least_one, finite

    seen = finite(scores, among)
    share = scores.double().masked_fill(~seen, 0).clamp(min=0)
    share = share / share.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    spread = -(share * share.clamp(min=torch.finfo(torch.float64).tiny).log()).sum(1)
    there = among.sum(1)
    widest = there.clamp(min=2).double().log()
    target = torch.minimum((config.target * view.unpruned.double() + 0.5).floor().long().clamp(min=1), there)
    clear = 1 - (spread / widest).clamp(max=1).square()
    dropped = ((there - target) / config.rounds**0.5 * clear).round().long()
    return at_least_one(torch.maximum(there - dropped, target), among)
