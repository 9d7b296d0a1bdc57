"""Mixes of criteria: normalise each over the candidates of its own sample, weight, combine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from autoprune.pruning.tensors import usable

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-30


def combine(
    terms: Sequence[tuple[float, Tensor]],
    candidates: Tensor,
    normalise: Literal["rank", "minmax", "softmax", "sum", "none"],
    op: Literal["sum", "product", "max"],
) -> Tensor:
    """One score [B, V] from weighted criteria [B, V].

    sum: Σ w·s. product: Π s^w, the weighted geometric mean, negative values counting as 0. max: max w·s.
    """
    scaled = [(w, NORMALISE[normalise](usable(s, candidates), candidates)) for w, s in terms]
    if op == "product":
        logs = torch.stack([w * s.clamp(min=TINY).log() for w, s in scaled])
        return logs.sum(0).exp()
    weighted = torch.stack([w * s for w, s in scaled])
    return weighted.sum(0) if op == "sum" else weighted.amax(0)


def _rank(scores: Tensor, candidates: Tensor) -> Tensor:
    """Share of the candidates that are not better, in (0, 1]; equal scores get equal ranks."""
    ordered = scores.sort(dim=1).values
    padding = (~candidates).sum(1, keepdim=True)  # -inf entries sort to the front
    not_better = torch.searchsorted(ordered, scores.contiguous(), right=True) - padding
    return not_better.float() / candidates.sum(1, keepdim=True).clamp(min=1)


def _minmax(scores: Tensor, candidates: Tensor) -> Tensor:
    """To [0, 1]; constant scores become 0."""
    low = scores.masked_fill(~candidates, float("inf")).amin(1, keepdim=True)
    high = scores.amax(1, keepdim=True)
    scaled = (scores - low) / (high - low).clamp(min=torch.finfo(scores.dtype).tiny)
    return scaled.masked_fill(~candidates, 0)


def _softmax(scores: Tensor, candidates: Tensor) -> Tensor:
    return scores.softmax(1).nan_to_num(0).masked_fill(~candidates, 0)


def _sum(scores: Tensor, candidates: Tensor) -> Tensor:
    """To sum 1; negative scores count as 0, and where nothing is above 0 all become 0."""
    positive = scores.clamp(min=0).masked_fill(~candidates, 0)
    return positive / positive.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


def _none(scores: Tensor, candidates: Tensor) -> Tensor:
    return scores.masked_fill(~candidates, 0)


NORMALISE: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rank": _rank,
    "minmax": _minmax,
    "softmax": _softmax,
    "sum": _sum,
    "none": _none,
}
