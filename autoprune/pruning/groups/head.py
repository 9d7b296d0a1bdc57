"""Attention heads that choose for themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from autoprune.pruning.parts import part, uncounted
from autoprune.pruning.signals import PartConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.plan import PlannedPick
    from autoprune.pruning.view import Quota, StageView


class Head(PartConfig):
    """split: how heads share the pick's count: `equal`, or `proportional` to what each gives the free tokens."""

    split: Literal["equal", "proportional"] = "equal"


@part(
    "group",
    "head",
    Head,
    flops=uncounted,
    needs=frozenset({"heads"}),
    paper="PLPHP: Per-Layer Per-Head Vision Token Pruning (2025), whose heads keep tokens of their own",
)
def head(pick: PlannedPick, view: StageView, scores: Tensor, quota: Quota, free: Tensor, taken: Tensor) -> Tensor:
    """No partition: every head, in order, chooses its share by its own scores among what those before it left.

    Scores are [B, V, H]. Shares are by largest remainder, ties to the lower head. The mask [B, V] has exactly
    `quota` True inside `free`.
    """
    import torch

    from autoprune.pruning.grouping import allocate
    from autoprune.pruning.view import Quota

    heads = scores.shape[2]
    there = free.sum(1, keepdim=True).expand(-1, heads)
    weights = torch.ones(there.shape, device=free.device)
    most = -(-quota.most // heads)
    if pick.group is not None and pick.group.config.split == "proportional":  # type: ignore[attr-defined]
        most = quota.most
        weights = (scores.double().nan_to_num(nan=0).clamp(min=0) * free[..., None]).sum(1)
    shares = allocate(quota.each, there, weights)
    chosen = torch.zeros_like(free)
    for number in range(heads):
        own = Quota(shares[:, number], most, 0, quota.earlier + number * most, quota.stage)
        before = taken | chosen
        chosen = chosen | pick.select.run(view, scores[..., number], own, free & ~chosen, before, pick.select.config)
    return chosen
