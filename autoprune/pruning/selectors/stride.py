"""Evenly spaced tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import Quota, StageView


class Stride(PartConfig):
    """start: of k equal stretches the token in the middle (`centre`), or every floor(m / k)-th of m tokens from the
    `first` on, so that the end may go without (VisionZip)."""

    start: Literal["centre", "first"] = "centre"


def flops(config: Stride, sizes: Sizes) -> int:
    """0: counting."""
    return 0


@part("selector", "stride", Stride, flops=flops, reads="no")
def stride(view: StageView, scores: Tensor | None, quota: Quota, free: Tensor, taken: Tensor, config: Stride) -> Tensor:
    """Tokens evenly spaced over the raster order of those still free; scores are not used.

    Of m free tokens the i-th of k chosen has ordinal floor((2i + 1)·m / 2k), in integers; from the first on,
    i·floor(m / k).
    """
    import torch

    there = free.sum(1, keepdim=True)
    k = quota.each[:, None]
    steps = torch.arange(free.shape[1], device=free.device)
    if config.start == "first":
        ordinals = steps * (there // k.clamp(min=1))
    else:
        ordinals = ((2 * steps + 1) * there) // (2 * k.clamp(min=1))
    ordinals = torch.where(steps < k, ordinals, free.shape[1])
    hit = torch.zeros(free.shape[0], free.shape[1] + 1, dtype=torch.bool, device=free.device)
    hit = hit.scatter(1, ordinals, True)
    hit[:, -1] = False
    own = (free.long().cumsum(1) - 1).clamp(min=0)
    return free & hit.gather(1, own)
