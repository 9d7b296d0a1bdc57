"""Parameters that selectors and mergers share. Torch-free."""

from __future__ import annotations

from typing import Literal

from autoprune.pruning.decoder_signals import ProjectedFeatures
from autoprune.pruning.encoder_signals import EncoderFeatures
from autoprune.pruning.signals import PartConfig, Signal, Site

FeatureSpace = Literal["projected", "encoder", "hidden"]


def space_signals(space: FeatureSpace) -> tuple[Signal, ...]:
    """What a run must keep for `StageView.features(space)`."""
    if space == "hidden":
        return ()
    return (ProjectedFeatures(),) if space == "projected" else (EncoderFeatures(),)


class SpaceConfig(PartConfig):
    """space: which feature rows likeness (cosine) is measured on."""

    space: FeatureSpace = "projected"

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return space_signals(self.space)
