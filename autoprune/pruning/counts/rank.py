"""As many tokens as the text's attention to the picture has independent directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from autoprune.pruning.counting import CountConfig
from autoprune.pruning.decoder_signals import BlockStatistic
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import DecoderLayer, Number, Signal, Site, decoder_row_layer

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class Rank(CountConfig):
    """layer: `prev`, `own` or a decoder layer, whose attention rows are read. from: whose rows: the `raters`' or all
    `text`'s. scale: the part of the tokens beyond the rank that go. bias: this many more stay. tolerance: singular
    values below this part of the largest count as nothing."""

    layer: DecoderLayer = "prev"
    source: Literal["raters", "text"] = Field(default="raters", alias="from")
    scale: Number = Field(default=1.0, ge=0, le=1)
    bias: int = Field(default=0, strict=True)
    tolerance: Number = Field(default=1e-4, gt=0, lt=1)

    def statistic(self, site: Site) -> BlockStatistic:
        layer, own = decoder_row_layer("prev" if self.layer is None else self.layer, site, "rank.layer")
        return BlockStatistic(layer, own, self.source, "rank", self.tolerance)

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (self.statistic(site),)


def flops(config: Rank, sizes: Sizes) -> int:
    """2·t·s·h·e for the rows and 4·V·t² for the singular values of the V x t block; `own`: and the probe."""
    statistic = config.statistic(sizes.site)
    seen = sizes.sequence(statistic.layer, statistic.own)
    rows = 2 * sizes.text * seen * sizes.query_width
    return rows + 4 * sizes.current * sizes.text**2 + sizes.probe(statistic.own)


@part(
    "count",
    "rank",
    Rank,
    flops=flops,
    sites=("llm",),
    tier="T2",
    paper="SparseVLM: Visual Token Sparsification (ICML 2025): the paper's adaptive count",
)
def rank(view: StageView, scores: Tensor | None, among: Tensor, config: Rank) -> Tensor:
    """V - round(scale · (V - rank(P)) - bias), P the head-mean attention of the raters to the visual tokens."""
    from autoprune.pruning.counting import at_least_one

    there = among.sum(1)
    found = view.provide(config.statistic(view.site))[:, 0].long()
    going = (config.scale * (there - found).clamp(min=0) - config.bias).round().long().clamp(min=0)
    return at_least_one(there - going, among)
