"""None at all once words and picture have stopped looking at each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from autoprune.pruning.counting import CountConfig
from autoprune.pruning.decoder_signals import BlockStatistic, Share
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import DecoderLayer, Number, Signal, Site, decoder_row_layer

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class Gate(CountConfig):
    """below: a share of attention smaller than this closes the gate. look: which shares must be: of the text's
    attention that goes to the picture (`text_to_vision`), of the picture's that goes to words (`vision_to_text`), or
    `both`. layer: `prev`, `own` or a decoder layer, whose attention is read."""

    below: Number = Field(default=0.1, gt=0, le=1)
    look: Literal["both", "text_to_vision", "vision_to_text"] = "both"
    layer: DecoderLayer = "prev"

    def statistics(self, site: Site) -> tuple[BlockStatistic, ...]:
        layer, own = decoder_row_layer("prev" if self.layer is None else self.layer, site, "gate.layer")
        shares: tuple[Share, ...] = ("text_to_vision", "vision_to_text") if self.look == "both" else (self.look,)
        return tuple(BlockStatistic(layer, own, "text" if s == "text_to_vision" else "vision", s) for s in shares)

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return self.statistics(site)


def flops(config: Gate, sizes: Sizes) -> int:
    """2·r·s·h·e for each share, r rows of text or of visual tokens; `own`: and the probe."""
    total = 0
    for statistic in config.statistics(sizes.site):
        rows = sizes.text if statistic.start == "text" else sizes.current
        total += 2 * rows * sizes.sequence(statistic.layer, statistic.own) * sizes.query_width
    return total + sizes.probe(config.statistics(sizes.site)[0].own)


@part(
    "count",
    "gate",
    Gate,
    flops=flops,
    sites=("llm",),
    tier="T3",
    paper="ToDRE: Visual Token Pruning via Diversity and Task Awareness (2025), stage 2",
)
def gate(view: StageView, scores: Tensor | None, among: Tensor, config: Gate) -> Tensor:
    """All, or `CLOSED` where every share that is looked at lies below the bound."""
    import torch

    from autoprune.pruning.counting import CLOSED

    shares = torch.stack([view.provide(statistic)[:, 0] for statistic in config.statistics(view.site)])
    return torch.where((shares >= config.below).any(0), among.sum(1), CLOSED)
