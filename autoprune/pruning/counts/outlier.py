"""As many tokens as stand out from the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from autoprune.errors import Mistake
from autoprune.pruning.counting import CountConfig
from autoprune.pruning.parts import part, uncounted
from autoprune.pruning.signals import Number

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class Outlier(CountConfig):
    """method: `iqr` = scores above the third quartile plus `beyond` times the distance of the quartiles; `lof` = scores
    whose local outlier factor among their `neighbours` nearest scores is above `beyond`. times: the count is multiplied
    by this (PruMerge+ keeps three evenly spaced tokens beside every outlier). more: and this many on top, for rows that
    the merger makes."""

    method: Literal["iqr", "lof"] = "iqr"
    beyond: Number = Field(default=1.5, gt=0)
    neighbours: int | None = Field(default=None, ge=1, strict=True)
    times: Number = Field(default=1.0, gt=0)
    more: int = Field(default=0, ge=0, strict=True)

    @model_validator(mode="after")
    def _fits(self) -> Outlier:
        if self.method == "iqr" and self.neighbours is not None:
            raise Mistake("conflict", "`neighbours` belongs to `method: lof`")
        return self


NEIGHBOURS = 20  # of the local outlier factor, where nothing is said


@part(
    "count",
    "outlier",
    Outlier,
    flops=uncounted,
    needs=frozenset({"score"}),
    paper="LLaVA-PruMerge (ICCV 2025) for iqr; Recoverable Compression (AAAI 2025) for lof",
)
def outlier(view: StageView, scores: Tensor, among: Tensor, config: Outlier) -> Tensor:
    """The number of outlying scores, times and more as said, at least 1.

    Quartiles interpolate; the outlier factor is of the scores as points on a line (Breunig et al. 2000)."""
    from autoprune.pruning.counting import at_least_one, finite

    seen = finite(scores, among)
    values = scores.float()
    found = _beyond_quartiles(values, seen, config.beyond) if config.method == "iqr" else _lof(values, seen, config)
    counts = ((found & seen).sum(1) * config.times + 0.5).floor() + config.more
    return at_least_one(counts, among)


def _beyond_quartiles(values: Tensor, seen: Tensor, factor: float) -> Tensor:
    ordered = values.masked_fill(~seen, float("inf")).sort(1).values
    count = seen.sum(1, keepdim=True)
    low, high = (_quantile(ordered, count, q) for q in (0.25, 0.75))
    return values > high + factor * (high - low)


def _quantile(ordered: Tensor, count: Tensor, q: float) -> Tensor:
    """Linear between neighbours of the first `count` [B, 1] entries of each row."""
    place = (q * (count - 1)).clamp(min=0)
    below = place.floor().long()
    above = (below + 1).minimum((count - 1).clamp(min=0))
    low, high = ordered.gather(1, below), ordered.gather(1, above)
    return low + (place - below) * (high - low)


def _lof(values: Tensor, seen: Tensor, config: Outlier) -> Tensor:
    """Whose local outlier factor is above the bound: [B, V]. Distances are |s_i - s_j|; equal scores have a density
    limit of 1e-10, as elsewhere."""
    import torch

    points = values.double().masked_fill(~seen, 0)
    pairs = seen[:, :, None] & seen[:, None] & ~torch.eye(points.shape[1], dtype=torch.bool, device=points.device)
    distance = (points[:, :, None] - points[:, None]).abs().masked_fill(~pairs, float("inf"))
    count = seen.sum(1)
    k = torch.minimum(torch.full_like(count, config.neighbours or NEIGHBOURS), (count - 1).clamp(min=1))
    order = distance.argsort(dim=2, stable=True)
    place = order.argsort(dim=2, stable=True)
    near = (place < k[:, None, None]) & pairs
    reach = distance.masked_fill(~near, float("-inf")).amax(2)  # to the k-th neighbour
    reachable = torch.maximum(distance, reach[:, None]).masked_fill(~near, 0)
    density = 1 / (reachable.sum(2) / k[:, None] + 1e-10)
    around = (density[:, None] * near).sum(2) / k[:, None]
    found: Tensor = around / density > config.beyond
    return found
