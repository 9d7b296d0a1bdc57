"""The length of a token's feature vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.decoder_signals import KeyNorm, ProjectedFeatures
from autoprune.pruning.encoder_signals import EncoderFeatures
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig, Signal, Site, Space

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class FeatureNorm(PartConfig):
    """space: `projected` (what enters the language model), `encoder` (what enters the projector), `hidden` (what enters
    the stage's layer) or `keys` (of the decoder layer before the stage; at llm:0 and projector of layer 0)."""

    space: Space = "projected"

    def key(self, site: Site) -> KeyNorm:
        return KeyNorm(0, True) if site.layer == 0 else KeyNorm(site.layer - 1, False)

    def signals(self, site: Site) -> tuple[Signal, ...]:
        if self.space == "hidden":
            return ()
        if self.space == "keys":
            return (self.key(site),)
        return (ProjectedFeatures(),) if self.space == "projected" else (EncoderFeatures(),)


def flops(config: FeatureNorm, sizes: Sizes) -> int:
    """2·V·width of the space; keys: 2·s·g·e, taken at every position, and the probe at layer 0."""
    if config.space == "keys":
        key = config.key(sizes.site)
        return sizes.probe(key.own) + 2 * sizes.sequence(key.layer, key.own) * sizes.key_width
    return 2 * sizes.current * sizes.width(config.space)


@part("criterion", "feature_norm", FeatureNorm, flops=flops)
def feature_norm(view: StageView, config: FeatureNorm) -> Tensor:
    """L2 norm of each token in one space; keys over all heads together."""
    if config.space == "keys":
        return view.provide(config.key(view.site))
    return view.features(config.space).square().sum(-1).sqrt()
