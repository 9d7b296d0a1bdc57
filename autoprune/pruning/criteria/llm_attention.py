"""How much the prompt looks at each visual token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.pruning.decoder_signals import Rows, TextRow
from autoprune.pruning.encoder_signals import Heads
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import DecoderLayer, PartConfig, Signal, Site, decoder_row_layer

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class LlmAttention(PartConfig):
    """layer: `prev` (the layer before the stage, free), `own` (the stage's layer, run up to its attention) or a decoder
    layer. from: `last` = the last prompt row, `text` = mean over the prompt rows after the last visual token."""

    layer: DecoderLayer = "prev"
    source: Rows = Field(default="last", alias="from")
    heads: Heads = "mean"

    def row(self, site: Site) -> TextRow:
        layer, own = decoder_row_layer(self.layer, site)
        return TextRow(layer, self.source, self.heads, own)

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (self.row(site),)


def flops(config: LlmAttention, sizes: Sizes) -> int:
    """2·r·s·h·e, r rows (`text`: all text positions, at most); `own`: and the probe of all rows' q, k, v."""
    row = config.row(sizes.site)
    rows = 1 if row.rows == "last" else sizes.text
    return sizes.probe(row.own) + 2 * rows * sizes.sequence(row.layer, row.own) * sizes.query_width


@part(
    "criterion",
    "llm_attention",
    LlmAttention,
    flops=flops,
    tier="T2",
    sites=("llm",),
    paper="An Image is Worth 1/2 Tokens After Layer 2 (FastV, ECCV 2024); PyramidDrop (CVPR 2025) for layer: own",
)
def llm_attention(view: StageView, config: LlmAttention) -> Tensor:
    """Softmax attention that prompt rows pay to each visual token at one decoder layer."""
    return view.provide(config.row(view.site))
