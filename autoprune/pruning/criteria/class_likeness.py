"""How like each patch is to the vision tower's class token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.errors import BadInput
from autoprune.pruning.encoder_signals import ClassLikeness
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import EncoderLayer, PartConfig, Signal, Site, encoder_block

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class ClassLikenessConfig(PartConfig):
    """layer: the encoder block (0-based, negative from the end, or a fraction of the depth) before which features are
    compared; -1: what the last but one leaves, which LLaVA projects."""

    layer: EncoderLayer = -1

    def signal(self, site: Site) -> ClassLikeness:
        return ClassLikeness(encoder_block(-1 if self.layer is None else self.layer, site, "class_likeness.layer"))

    def signals(self, site: Site) -> tuple[Signal, ...]:
        if not site.has_cls:
            raise BadInput("class_likeness: this model's vision tower has no class token")
        return (self.signal(site),)


def flops(config: ClassLikenessConfig, sizes: Sizes) -> int:
    """4·T·w per picture: the lengths and the dot products of T tokens of width w."""
    return sum(4 * tokens * sizes.geometry.vision.width for tokens in sizes.tower)


@part(
    "criterion",
    "class_likeness",
    ClassLikenessConfig,
    flops=flops,
    paper="Sparsity Meets Similarity: Leveraging Long-Tail Distribution for Dynamic Optimized Token Representation in "
    "Multimodal Large Language Models (2024)",
)
def class_likeness(view: StageView, config: ClassLikenessConfig) -> Tensor:
    """Cosine of each patch's features and the class token's, in the tower."""
    return view.provide(config.signal(view.site))
