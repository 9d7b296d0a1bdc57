"""As many tokens as score above a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from autoprune.pruning.counting import CountConfig
from autoprune.pruning.parts import part, uncounted
from autoprune.pruning.signals import Number

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class Threshold(CountConfig):
    """above: the bound. of: its unit: the scores' `mean`, `sum` or `max`, or 1 (`value`). least: how many are found
    however low they are. A second bound, on another score, is the `count` of a second pick, with `least: 0`: what
    passes either stays (MustDrop: a share of the summed attention, or an absolute value of the largest row)."""

    above: Number = 1.0
    of: Literal["mean", "sum", "max", "value"] = "mean"
    least: int = Field(1, ge=0, le=1, strict=True)


@part(
    "count",
    "threshold",
    Threshold,
    flops=uncounted,
    needs=frozenset({"score"}),
    paper="MustDrop (2024) for its two bounds on attention; SAINT (2025) for bounds on likeness",
)
def threshold(view: StageView, scores: Tensor, among: Tensor, config: Threshold) -> Tensor:
    """The number of scores at or above the bound, at least `least`."""
    from autoprune.pruning.counting import at_least_one, finite

    seen = finite(scores, among)
    values = scores.double().masked_fill(~seen, 0)
    total = values.sum(1, keepdim=True)
    unit = {
        "value": lambda: total.new_ones(total.shape),
        "mean": lambda: total / seen.sum(1, keepdim=True).clamp(min=1),
        "sum": lambda: total,
        "max": lambda: scores.double().masked_fill(~seen, float("-inf")).amax(1, keepdim=True),
    }[config.of]()
    counts = ((values >= config.above * unit) & seen).sum(1)
    return at_least_one(counts, among) if config.least else counts
