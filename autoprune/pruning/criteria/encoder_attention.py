"""How much the vision tower's class token looks at each patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from autoprune.errors import BadInput
from autoprune.pruning.encoder_signals import EncoderRow, Heads
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import EncoderLayer, PartConfig, Signal, Site, encoder_block

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class EncoderAttention(PartConfig):
    """layer: encoder block, 0-based, negative from the end, or a fraction of the depth. from: the query row."""

    layer: EncoderLayer = -2
    source: Literal["cls"] = Field(default="cls", alias="from")
    heads: Heads = "mean"

    def row(self, site: Site) -> EncoderRow:
        return EncoderRow(encoder_block(self.layer, site), self.heads)

    def signals(self, site: Site) -> tuple[Signal, ...]:
        if not site.has_cls:
            raise BadInput("encoder_attention from 'cls': this model's vision tower has no class token")
        return (self.row(site),)


def flops(config: EncoderAttention, sizes: Sizes) -> int:
    """2·T·w per picture: one query row against the keys of all T tokens."""
    return sizes.pictures * 2 * sizes.tower_tokens * sizes.geometry.vision.width


@part(
    "criterion",
    "encoder_attention",
    EncoderAttention,
    flops=flops,
    tier="T1",
    paper="[CLS] Attention is All You Need for Training-Free Visual Token Pruning (FasterVLM, 2024)",
)
def encoder_attention(view: StageView, config: EncoderAttention) -> Tensor:
    """Softmax attention of the class token to each patch at one encoder block."""
    return view.provide(config.row(view.site))
