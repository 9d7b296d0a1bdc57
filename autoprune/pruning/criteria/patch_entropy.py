"""How much there is to see in a token's patch of the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.encoder_signals import PatchEntropy
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig, Signal, Site

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class PatchEntropyConfig(PartConfig):
    """No parameters. VFlowOpt adds it to the attention with a weight, after a softmax over the image's patches."""

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (PatchEntropy(),)


def flops(config: PatchEntropyConfig, sizes: Sizes) -> int:
    """2·channels·side² per picture, for its grey values; counting them is left out."""
    vision = sizes.geometry.vision
    return sizes.pictures * 2 * vision.channels * vision.image_size**2


@part(
    "criterion",
    "patch_entropy",
    PatchEntropyConfig,
    flops=flops,
    paper="VFlowOpt: A Token Pruning Framework for LMMs with Visual Information Flow-Guided Optimization (ICCV 2025)",
)
def patch_entropy(view: StageView, config: PatchEntropyConfig) -> Tensor:
    """Entropy, in bits, of the grey levels in the token's patch; a token of several patches has their mean."""
    return view.provide(PatchEntropy())
