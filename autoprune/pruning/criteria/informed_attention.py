"""How much the prompt looks at each visual token, the more it counts the more its words look at different ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.pruning.decoder_signals import BlockStatistic, DecoderWalk
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import DecoderLayer, Number, PartConfig, Signal, Site, decoder_row_layer

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class InformedAttention(PartConfig):
    """layer: `prev`, `own` or a decoder layer, whose attention rows are read. smoothing: is added to the denominator of
    the mutual information's logarithms (see `pruning/block.py`)."""

    layer: DecoderLayer = "prev"
    smoothing: Number = Field(default=1e-6, ge=0)

    def read(self, site: Site) -> tuple[DecoderWalk, BlockStatistic]:
        wanted = "prev" if self.layer is None else self.layer
        layer, own = decoder_row_layer(wanted, site, "informed_attention.layer")
        return DecoderWalk(layer, own, "text"), BlockStatistic(layer, own, "text", "information", self.smoothing)

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return self.read(site)


def flops(config: InformedAttention, sizes: Sizes) -> int:
    """4·t·s·h·e: the rows of the text, for the attention and for the information; `own`: and the probe."""
    walk, _ = config.read(sizes.site)
    return sizes.probe(walk.own) + 4 * sizes.text * sizes.sequence(walk.layer, walk.own) * sizes.query_width


@part(
    "criterion",
    "informed_attention",
    InformedAttention,
    flops=flops,
    tier="T2",
    sites=("llm",),
    paper="AutoPrune: Each Complexity Deserves a Pruning Policy (NeurIPS 2025), release",
)
def informed_attention(view: StageView, config: InformedAttention) -> Tensor:
    """Mean attention of the prompt's words to each visual token, times their mutual information in bits per word."""
    walk, information = config.read(view.site)
    words = view.text("hidden")[1].sum(1, keepdim=True).clamp(min=1)
    return view.provide(walk) * view.provide(information) / words
