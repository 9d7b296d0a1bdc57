"""The length of a token's feature vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.decoder_signals import KeyNorm, Order, ProjectedFeatures
from autoprune.pruning.encoder_signals import EncoderFeatures
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig, Signal, Site, Space, key_norm

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class FeatureNorm(PartConfig):
    """space: `projected` (what enters the language model), `encoder` (what enters the projector), `hidden` (what enters
    the stage's layer) or `keys` (of the decoder layer before the stage; at llm:0 and projector of layer 0). order: `l2`
    = length, `l1` = sum of absolute values."""

    space: Space = "projected"
    order: Order = "l2"

    def key(self, site: Site) -> KeyNorm:
        return key_norm(site, self.order)

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


@part(
    "criterion",
    "feature_norm",
    FeatureNorm,
    flops=flops,
    paper="DART (2025) for the L1 norm of keys: the scores of selector `pivot`",
)
def feature_norm(view: StageView, config: FeatureNorm) -> Tensor:
    """Norm of each token in one space; keys over all heads together."""
    if config.space == "keys":
        return view.provide(config.key(view.site))
    rows = view.features(config.space)
    return rows.abs().sum(-1) if config.order == "l1" else rows.square().sum(-1).sqrt()
