"""Every kept token becomes a mean of all tokens, by likeness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import SpaceConfig
from autoprune.pruning.signals import Number

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.stage import Kept
    from autoprune.pruning.view import StageView


class Soft(SpaceConfig):
    """space: which feature rows likeness (cosine) is measured on. temperature: of the softmax over a row's likenesses;
    the smaller, the more a kept token stays itself."""

    temperature: Number = Field(default=0.05, ge=0.001)


def flops(config: Soft, sizes: Sizes) -> int:
    """2·K·V·width of the space for the likenesses and 2·K·V·d for W x, both dense."""
    pairs = sizes.kept * sizes.current
    return config.comparing(sizes, pairs) + 2 * pairs * sizes.geometry.width


@part(
    "merger",
    "soft",
    Soft,
    flops=flops,
    reads="no",
    paper="Token Transforming: A Unified and Training-Free Token Compression Framework for Vision Transformer "
    "Acceleration (2025)",
)
def soft(view: StageView, kept: Kept, config: Soft) -> Tensor:
    """Row-softmax of the cosine of kept to all tokens over the temperature, kept ones too, protected ones not.

    Tokens weigh by mass as well. A token's mass is split among the kept by its weights in them, so none is lost as
    long as its largest weight is not below float32's range. The default temperature is ours.
    """
    from autoprune.pruning.merging import itself, taking
    from autoprune.pruning.tensors import take, unit

    rows, own = unit(config.features(view)), itself(view, kept)
    among = own | (view.candidates[:, None] & taking(view, kept)[..., None])
    cosine = take(rows, kept.index, 1) @ rows.transpose(1, 2)
    return (cosine / config.temperature).masked_fill(~among, float("-inf")).softmax(2)
