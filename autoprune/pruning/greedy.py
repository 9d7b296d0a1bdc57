"""The greedy loop: the token that gains most given those already chosen, one per sample and step, for a whole batch.

A selector is a gain. Its state is small, O(V) or O(rows x V) numbers per sample, and one step brings it up to date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from autoprune.pruning.tensors import first_best, nearest, take

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import Quota


class Gain(Protocol):
    """What a choice is worth, given those before it; the tokens of earlier picks count as chosen."""

    def values(self) -> Tensor:
        """Gain of each token now, [B, V]."""
        ...

    def add(self, index: Tensor) -> None:
        """Token index [B, 1] of each sample has been chosen. Samples that are done may name any token."""
        ...


def greedy(
    gain: Gain, quota: Quota, free: Tensor, seed: tuple[Tensor, Tensor] | None = None, slack: float = 0
) -> Tensor:
    """Mask [B, V] of quota.each tokens among `free`, by largest gain at each step; equal gains go to the earlier token.

    `seed`: values [B, V] that decide the first step instead of the gain, for the samples [B, 1] that it says. `slack`:
    gains this close to the largest, as a share of it, equal it: what symmetry makes equal, rounding does not decide.
    """
    chosen = torch.zeros_like(free)
    for step in range(quota.most):
        values = gain.values()
        if step == 0 and seed is not None:
            values = torch.where(seed[1], seed[0].float(), values)
        if slack:
            top = values.masked_fill(~free | chosen, float("-inf")).amax(1, keepdim=True)
            values = torch.where(values >= top - slack * top.abs(), top, values)
        index = first_best(values, free & ~chosen)[:, None]
        chosen = chosen | torch.zeros_like(free).scatter(1, index, (step < quota.each)[:, None])
        gain.add(index)
    return chosen


def start(rows: Tensor, scores: Tensor | None, free: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """The seed of a set that has nothing to be compared with yet: best score, else the token whose nearest neighbour
    is farthest (DivPrune). Samples with earlier picks have no need of one."""
    values = 1 - nearest(rows, rows, free[:, None], skip_self=True)[0] if scores is None else scores
    return values, ~taken.any(1, keepdim=True)


def cosine_to(rows: Tensor, index: Tensor) -> Tensor:
    """Cosine [B, V] of unit rows [B, V, D] to one row of each sample, index [B, 1]."""
    return (rows @ take(rows, index, 1).transpose(1, 2))[..., 0]


class Likeness:
    """Highest cosine of each token to the chosen ones, [B, V]; -inf before the first."""

    def __init__(self, rows: Tensor, taken: Tensor) -> None:
        self.rows = rows
        self.highest = nearest(rows, rows, taken[:, None])[0]

    def add(self, index: Tensor) -> None:
        self.highest = torch.maximum(self.highest, cosine_to(self.rows, index))


def unit_interval(scores: Tensor, candidates: Tensor) -> Tensor:
    """Scores [B, V] scaled by their lowest and highest finite candidate to [0, 1]; NaN is 0, and where all are alike
    every token has 1."""
    scores = scores.float()
    seen = candidates & scores.isfinite()
    low = scores.masked_fill(~seen, float("inf")).amin(1, keepdim=True)
    high = scores.masked_fill(~seen, float("-inf")).amax(1, keepdim=True)
    span = high - low
    scaled = ((scores - low) / span).nan_to_num(0.0, posinf=1.0, neginf=0.0).clamp(0, 1)
    return torch.where(span > 0, scaled, 1.0).masked_fill(~candidates, 0)
