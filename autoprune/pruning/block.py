"""One number per sample from a block of a decoder layer's attention: rows of words or vision, visual columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from autoprune.pruning.tap import attention_rows, row_mask
from autoprune.pruning.tensors import CHUNK

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.decoder_signals import BlockStatistic
    from autoprune.pruning.decoder_walk import Ground


def statistic(
    query: Tensor, key: Tensor, scaling: float, mask: Tensor | None, ground: Ground, asked: BlockStatistic
) -> Tensor:
    """[B] in float32, from query [B, H, n, D], key [B, Hkv, n, D] and the layer's real mask; `ground.start` are the
    rows of the block, `ground.visual` its columns. Rows are the mean over the heads where nothing else is said.

    `information`: how many bits the column that is looked at tells of the row that looks, Σ a/R · log2(a/(ā + R·t)),
    summed over heads: a a row's attention, ā the mean of the R rows, t the `tolerance` (AutoPrune, NeurIPS 2025; rows
    are not scaled to sum 1 over the visual columns).
    `rank`: of the block. `text_to_vision`: the part of the rows' attention that goes to visual tokens, their mean;
    `vision_to_text`: the part that goes elsewhere.
    """
    if asked.kind == "information":
        return _information(query, key, scaling, mask, ground, asked.tolerance)
    block = _block(query, key, scaling, mask, ground)
    if asked.kind == "rank":
        values = torch.linalg.svdvals(block)
        above: Tensor = values > asked.tolerance * values[:, :1]
        return above.sum(1).float()
    count = ground.start.sum(1).clamp(min=1)
    to_vision = block.sum((1, 2)) / count
    share: Tensor = to_vision if asked.kind == "text_to_vision" else 1 - to_vision
    return share


def _information(
    query: Tensor, key: Tensor, scaling: float, mask: Tensor | None, ground: Ground, smoothing: float
) -> Tensor:
    """See `statistic`: [B]. Σ a·log2 a over the rows, less that of their mean; memory of some rows at a time."""
    rows = ground.start.sum(1).clamp(min=1)[:, None]
    mean = query.new_zeros(*query.shape[:2], key.shape[2], dtype=torch.float32)
    own = query.new_zeros(query.shape[0], dtype=torch.float32)
    for weights in _pieces(query, key, scaling, mask, ground):
        seen = weights * ground.visual[:, None, None]
        mean = mean + seen.sum(2)
        own = own + torch.special.xlogy(seen, seen).sum((1, 2, 3))
    mean = mean / rows[..., None]
    together = torch.special.xlogy(mean, mean + smoothing * rows[..., None]).sum((1, 2))
    found: Tensor = (own / rows[:, 0] - together) / math.log(2)
    return found


def _pieces(query: Tensor, key: Tensor, scaling: float, mask: Tensor | None, ground: Ground) -> Iterator[Tensor]:
    """Softmax rows [B, H, r, n] of some rows at a time, zero for rows that do not start."""
    for first in range(0, ground.rows.shape[1], CHUNK):
        rows = ground.rows[:, first : first + CHUNK]
        weights = attention_rows(query, key, rows, scaling, row_mask(mask, rows, key.shape[2], ground.valid))
        yield weights * ground.start[:, None, first : first + CHUNK, None]


def _block(query: Tensor, key: Tensor, scaling: float, mask: Tensor | None, ground: Ground) -> Tensor:
    """[B, R, n] float32, zero off the visual columns and off the rows that start."""
    pieces = [weights.mean(1) for weights in _pieces(query, key, scaling, mask, ground)]
    found: Tensor = torch.cat(pieces, 1) * ground.visual[:, None]
    return found
