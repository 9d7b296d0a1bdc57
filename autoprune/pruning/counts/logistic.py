"""A budget shared out among layers along a logistic curve: the less words and picture tell, the steeper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.errors import BadInput
from autoprune.pruning.counting import CountConfig
from autoprune.pruning.decoder_signals import BlockStatistic
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import Number, Signal, Site

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class Logistic(CountConfig):
    """Layer x from 0 (the first of `along`) to 1 (the last) gets a part of the budget in proportion to
    1/(1 + exp(k·(x - mid - lag·k))), at most `most` of N, with k = slope - per_bit·I, at least 0.

    I is the mutual information, in bits, between the prompt's words and the visual tokens they look at in the layer
    before the first: of every head, summed. smoothing: is added to the denominator of its logarithms (see
    `pruning/block.py`). along: filled in from the stage.
    """

    slope: Number = Field(ge=0, le=30)
    per_bit: Number = Field(default=0.0, ge=0)
    mid: Number = Field(default=0.5, ge=0, le=1)
    lag: Number = Field(default=0.0, ge=0, le=1)
    most: Number = Field(default=1.0, gt=0, le=1)
    smoothing: Number = Field(default=1e-6, ge=0)
    along: tuple[int, int] | None = None

    def statistic(self) -> BlockStatistic:
        return BlockStatistic(self.ends()[0] - 1, False, "text", "information", self.smoothing)

    def ends(self) -> tuple[int, int]:
        if self.along is None:
            raise BadInput(
                "keep: rule logistic shares a budget among layers: "
                "write `along: [first, last]` and `keep: {rule: {logistic: …}, fit: {to_budget: B}}`"
            )
        return self.along

    def signals(self, site: Site) -> tuple[Signal, ...]:
        first, _ = self.ends()
        if self.per_bit and first == 0:
            raise BadInput(
                "keep: rule logistic reads the layer before the first of `along`: there is none before llm:0"
            )
        return (self.statistic(),) if self.per_bit and site.layer == first else ()


def flops(config: Logistic, sizes: Sizes) -> int:
    """2·t·s·h·e for the rows of the text, once: at the first layer."""
    first, _ = config.ends()
    if not config.per_bit or sizes.site.layer != first:
        return 0
    return 2 * sizes.text * sizes.sequence(first - 1, False) * sizes.query_width


@part(
    "count",
    "logistic",
    Logistic,
    flops=flops,
    sites=("llm",),
    tier="T2",
    needs=frozenset({"layers"}),
    paper="AutoPrune: Each Complexity Deserves a Pruning Policy (NeurIPS 2025)",
)
def logistic(view: StageView, scores: Tensor | None, among: Tensor, config: Logistic) -> Tensor:
    """How high the curve is at each layer of `along`, [B, layers], in any unit."""
    import torch

    first, last = config.ends()
    slope = torch.full((len(among), 1), config.slope, dtype=torch.float64, device=among.device)
    if config.per_bit:
        bits = view.provide(config.statistic())[:, :1].double()
        slope = (slope - config.per_bit * bits).clamp(min=0, max=30)
    place = torch.arange(last - first + 1, device=among.device, dtype=torch.float64) / max(last - first, 1)
    return torch.sigmoid(-slope * (place - config.mid - config.lag * slope))
