"""Parameters that selectors and mergers share. Torch-free."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from autoprune.document.numbers import exact
from autoprune.pruning.decoder_signals import ProjectedFeatures
from autoprune.pruning.encoder_signals import EncoderFeatures
from autoprune.pruning.signals import PartConfig, Signal, Site

FeatureSpace = Literal["projected", "encoder", "hidden"]

# A number as documents write it: 0.9, 9/10 or .9.
Number = Annotated[float, BeforeValidator(lambda value: float(exact(value)))]


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
