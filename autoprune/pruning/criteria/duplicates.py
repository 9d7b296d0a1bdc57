"""Every second token is worth the less the more near duplicates it has among the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import FeatureSpace, SpaceConfig
from autoprune.pruning.signals import Number

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class Duplicates(SpaceConfig):
    """near: the cosine from which on two tokens are duplicates. neighbours: with fewer of them a token is none itself.
    sharpness: how much more closer duplicates count."""

    space: FeatureSpace = "keys"
    near: Number = Field(default=0.83, ge=-1, le=1)
    neighbours: int = Field(default=5, ge=1, strict=True)
    sharpness: Number = Field(default=10.0, ge=0)


def flops(config: Duplicates, sizes: Sizes) -> int:
    """V²/2·w: the half of the tokens that may be duplicates against the other half."""
    return config.comparing(sizes, (sizes.current + 1) // 2 * (sizes.current // 2))


@part(
    "criterion",
    "duplicates",
    Duplicates,
    flops=flops,
    paper="SAINT: Similarity-Aware Token Pruning (2025), in the language model",
)
def duplicates(view: StageView, config: Duplicates) -> Tensor:
    """-n·exp(sharpness·(mean cosine - near)) over the n duplicates of a token at an even place among those at odd ones;
    0 for all others. With `threshold: {above: 0}` the duplicates are what goes."""
    import torch

    from autoprune.pruning.tensors import unit

    rows = unit(config.features(view).masked_fill(~view.valid[..., None], 0))
    even, odd = rows[:, 0::2], rows[:, 1::2]
    cosine = even @ odd.transpose(1, 2)
    near = (cosine >= config.near) & view.valid[:, None, 1::2]
    count = near.sum(2)
    mean = cosine.masked_fill(~near, 0).sum(2) / count.clamp(min=1)
    redundancy = count * (config.sharpness * (mean - config.near)).exp()
    worth = torch.zeros_like(view.mass)
    worth[:, 0::2] = -redundancy.masked_fill((count < config.neighbours) | ~view.valid[:, 0::2], 0)
    return worth
