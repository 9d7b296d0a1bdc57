"""Small batched tensor operations with defined ties: equal values go to the lower index on every device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 512


def take(values: Tensor, index: Tensor, dim: int) -> Tensor:
    """Gather index [B, n] along `dim` of values [B or 1, ...]."""
    dim = dim % values.ndim
    if values.shape[0] != index.shape[0]:
        values = values.expand(index.shape[0], *values.shape[1:])
    shape = [1] * values.ndim
    shape[0], shape[dim] = index.shape[0], index.shape[1]
    size = list(values.shape)
    size[dim] = index.shape[1]
    return values.gather(dim, index.view(shape).expand(size))


def true_first(mask: Tensor, count: int) -> Tensor:
    """Indices [B, count] of the True entries of mask [B, n] in order; False entries fill up."""
    return (~mask).to(dtype=torch.int8).argsort(dim=1, stable=True)[:, :count]


def true_last(mask: Tensor, count: int) -> Tensor:
    """Like `true_first`, with the fill at the front: rows of different length end together."""
    n = mask.shape[1]
    return mask.to(dtype=torch.int8).argsort(dim=1, stable=True)[:, n - count :]


def best(scores: Tensor, candidates: Tensor, count: Tensor) -> Tensor:
    """Mask [B, V] of the `count` [B] highest scores among the candidates. NaN ranks lowest, ties go to the front."""
    return candidates & (rank(scores, candidates) < count[:, None])


def rank(scores: Tensor, candidates: Tensor) -> Tensor:
    """Place of each candidate by falling score, [B, V]; everything else comes after."""
    values = usable(scores, candidates)
    order = values.argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1)


def usable(scores: Tensor, candidates: Tensor) -> Tensor:
    """Scores in float32 with NaN as the lowest finite number and -inf off the candidates."""
    low = torch.finfo(torch.float32).min
    values = scores.float().nan_to_num(nan=low).clamp(min=low)
    return values.masked_fill(~candidates, float("-inf"))


def first_best(values: Tensor, candidates: Tensor) -> Tensor:
    """Index [B] of the largest candidate value, the first among equals; 0 where there is no candidate."""
    values = usable(values, candidates)
    n = values.shape[1]
    is_best = (values == values.amax(dim=1, keepdim=True)) & candidates
    index = torch.where(is_best, torch.arange(n, device=values.device), n).amin(dim=1)
    return index.clamp(max=n - 1)


def unit(features: Tensor) -> Tensor:
    """Rows scaled to length 1 in float32; zero rows stay zero."""
    return torch.nn.functional.normalize(features.float(), dim=-1)


def nearest(rows: Tensor, columns: Tensor, allowed: Tensor, skip_self: bool = False) -> tuple[Tensor, Tensor]:
    """Highest cosine and its column for each row: rows [B, V, D] and columns [B, K, D] of unit length.

    `allowed` [B, 1, K] bool; `skip_self` forbids column i to row i. Value -inf where nothing is
    allowed. Ties go to the lower column. Works in chunks of rows, so memory stays O(chunk x K).
    """
    k = columns.shape[1]
    order = torch.arange(k, device=rows.device)
    values, indices = [], []
    for start in range(0, rows.shape[1], CHUNK):
        part = rows[:, start : start + CHUNK]
        cosine = (part @ columns.transpose(1, 2)).masked_fill(~allowed, float("-inf"))
        if skip_self:
            own = torch.arange(start, start + part.shape[1], device=rows.device)[:, None] == order
            cosine = cosine.masked_fill(own, float("-inf"))
        top = cosine.amax(dim=2, keepdim=True)
        values.append(top[..., 0])
        indices.append(torch.where(cosine == top, order, k).amin(dim=2).clamp(max=k - 1))
    return torch.cat(values, 1), torch.cat(indices, 1)
