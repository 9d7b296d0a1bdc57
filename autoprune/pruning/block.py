"""One number per sample from a block of a decoder layer's attention: rows of words or vision, visual columns."""

from __future__ import annotations

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
    rows of the block, `ground.visual` its columns. Rows are the mean over the heads.

    `rank`: of the block. `text_to_vision`: the part of the rows' attention that goes to visual tokens, their mean;
    `vision_to_text`: the part that goes elsewhere.
    """
    block = _block(query, key, scaling, mask, ground)
    if asked.kind == "rank":
        values = torch.linalg.svdvals(block)
        above: Tensor = values > asked.tolerance * values[:, :1]
        return above.sum(1).float()
    count = ground.start.sum(1).clamp(min=1)
    to_vision = block.sum((1, 2)) / count
    share: Tensor = to_vision if asked.kind == "text_to_vision" else 1 - to_vision
    return share


def _block(query: Tensor, key: Tensor, scaling: float, mask: Tensor | None, ground: Ground) -> Tensor:
    """[B, R, n] float32, zero off the visual columns and off the rows that start."""
    pieces = []
    for first in range(0, ground.rows.shape[1], CHUNK):
        rows = ground.rows[:, first : first + CHUNK]
        seen = row_mask(mask, rows, key.shape[2], ground.valid)
        weights = attention_rows(query, key, rows, scaling, seen).mean(1)
        pieces.append(weights * ground.start[:, first : first + CHUNK, None])
    found: Tensor = torch.cat(pieces, 1) * ground.visual[:, None]
    return found
