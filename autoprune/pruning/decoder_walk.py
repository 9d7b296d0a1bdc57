"""Attention of a decoder layer as a walk: mass starts on prompt rows and is passed on as the attention says.

p₀ is even on the start, p ← p·A one hop, and a visual token's score is what has reached it. Every head walks in its
own map A; `heads` puts their ends together. The walk moves among the prompt rows after the last visual token (starts
`last`, `text`, `query`, `raters`), among all prompt rows (`all`) or among the visual ones (`vision`, and `norm`, where
p₀ is by the length of the states that enter the layer); only the last hop leaves them.

* 1 hop from `last` is FastV's and PyramidDrop's row, 1 hop from `raters` SparseVLM's.
* 2 hops from `text`, the first along A + Aᵀ - diag(A) (`symmetrise`), are AdaptInfer's; k hops from `all` are k steps
  of PageRank without a restart (AIM, with `rms` and a low temperature).
* `query`: the softmax row of the mean query of all those rows stands for the first hop. It sees what the last row sees.
* `max` of one hop is each row's, then the mean over the rows; of more it is that of the ends.
* `rows: max`: the heads meet in every row, and a column has the largest of its rows (PTP).
* With a `gate` t the heads meet after each hop but the last: rows that hold more than t times the mean go on, each with
  the same mass, in every head. The one that holds most always goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from autoprune.pruning.tap import attention_rows, row_mask
from autoprune.pruning.tensors import CHUNK, best, take

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.decoder_signals import DecoderHeads, DecoderWalk

MAP = 1 << 27  # entries of attention maps held at a time: 512 MiB
GRAIN = 2**16  # of the head that brings most: above the rounding of float32


@dataclass(frozen=True, eq=False)
class Ground:
    """Where a walk goes, in the columns of the layer's sequence. rows [B, R]: the rows it moves among, `real` of them;
    start [B, R] bool: those it starts from, with `mass` [B, R], 1 in all, or evenly where that is None. visual [B, n]
    bool: visual tokens. valid [B, n] bool, or None: all are."""

    rows: Tensor
    real: Tensor
    start: Tensor
    visual: Tensor
    valid: Tensor | None
    mass: Tensor | None = None

    @property
    def begin(self) -> Tensor:
        return _even(self.start) if self.mass is None else self.mass


def walk(
    query: Tensor,
    key: Tensor,
    scaling: float,
    mask: Tensor | None,
    ground: Ground,
    asked: DecoderWalk,
    even: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Mass on each column [B, n] in float32, from query [B, H, n, D], key [B, Hkv, n, D] and the layer's real mask. Of
    heads `each` [B, n, H].

    `even`: another query and key [B, 1, n, D]; attention is divided by theirs (`over_rope`). A map is held only where
    more than one hop needs it and it is small enough; memory is else that of a few rows.
    """
    graph = _Graph(query, key, scaling / asked.temperature, mask, ground, asked, even)
    if asked.rows == "max":
        return graph.strongest(ground.start)
    if asked.heads == "max" and asked.hops == 1 and asked.start != "query":
        return graph.loudest(ground.begin)
    ends = graph.pooled() if asked.start == "query" else graph.first(ground.begin)
    if asked.symmetrise:
        ends = ends + graph.backwards(ground.begin)
    for _ in range(asked.hops - 1):
        mass = take(ends, ground.rows, 2).masked_fill(~ground.real[:, None], 0)
        if asked.gate is not None:
            heads = "mean" if asked.heads == "each" else asked.heads
            together = take(meet(ends, heads, ground.visual), ground.rows, 1)
            mass = _gated(together, ground.real, asked.gate)[:, None].expand_as(mass)
        ends = graph.hop(mass)
    return meet(ends, asked.heads, ground.visual)


class _Graph:
    """The softmax rows of one layer, made some rows at a time, divided by those of `even` where they are given."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        scaling: float,
        mask: Tensor | None,
        ground: Ground,
        asked: DecoderWalk,
        even: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.even = even
        self.query, self.key, self.scaling, self.mask, self.ground = query, key, scaling, mask, ground
        self.only_visual, self.heads = asked.over_keys == "vision", asked.heads
        rows = ground.rows.shape[1]
        self.pieces = [slice(start, start + CHUNK) for start in range(0, rows, CHUNK)]
        again = asked.hops > 1 or asked.symmetrise
        fits = query.shape[0] * query.shape[1] * rows * key.shape[2] <= MAP
        self.held = [self._made(piece) for piece in self.pieces] if again and fits else None

    def first(self, mass: Tensor) -> Tensor:
        """One hop [B, H, n] of mass [B, R] that is the same in every head."""
        ends = [(self._piece(i) * mass[:, None, p, None]).sum(2) for i, p in enumerate(self.pieces)]
        return torch.stack(ends).sum(0) if len(ends) > 1 else ends[0]

    def pooled(self) -> Tensor:
        """One hop [B, H, n] from the mean query of the rows that the walk starts from."""
        ground = self.ground
        start = ground.start[:, None, :, None]

        def mean(query: Tensor) -> Tensor:
            rows = take(query, ground.rows, 2).float().masked_fill(~start, 0)
            return (rows.sum(2, keepdim=True) / start.sum(2, keepdim=True).clamp(min=1)).to(query.dtype)

        seen, only = self._seen(ground.rows[:, -1:]), torch.zeros_like(ground.rows[:, :1])
        even = None if self.even is None else (mean(self.even[0]), self.even[1])
        row = self._softmax(mean(self.query), even, only, seen)[:, :, 0]
        return row.masked_fill(~ground.start.any(1)[:, None, None], 0)

    def loudest(self, mass: Tensor) -> Tensor:
        """One hop [B, n] of mass [B, R] in which every row is that of its loudest head, column by column."""
        ends = [(self._piece(i).amax(1) * mass[:, p, None]).sum(1) for i, p in enumerate(self.pieces)]
        return torch.stack(ends).sum(0) if len(ends) > 1 else ends[0]

    def strongest(self, start: Tensor) -> Tensor:
        """Of the rows that a walk starts from, [B, R] bool, the largest at each column: [B, n], of `each` [B, n, H]."""
        ends = []
        for i, p in enumerate(self.pieces):
            weights = self._piece(i).masked_fill(~start[:, None, p, None], 0)
            if self.heads == "each":
                ends.append(weights.amax(2).transpose(1, 2))
                continue
            batch, heads, rows, columns = weights.shape
            row_by_row = weights.transpose(1, 2).reshape(batch * rows, heads, columns)
            one = meet(row_by_row, self.heads, self.ground.visual.repeat_interleave(rows, 0))
            ends.append(one.view(batch, rows, columns).amax(1))
        return torch.stack(ends).amax(0)

    def hop(self, mass: Tensor) -> Tensor:
        """One hop [B, H, n] of mass [B, H, R]."""
        ends = [(mass[:, :, None, p] @ self._piece(i))[:, :, 0] for i, p in enumerate(self.pieces)]
        return torch.stack(ends).sum(0) if len(ends) > 1 else ends[0]

    def backwards(self, mass: Tensor) -> Tensor:
        """One hop against the attention, without what stays: mass · (Aᵀ - diag(A)), [B, H, n]."""
        ground, columns = self.ground, self.key.shape[2]
        batch, heads = self.query.shape[:2]
        from_columns = mass.new_zeros(batch, columns).scatter(1, ground.rows, mass)[:, None, :, None]
        ends = mass.new_zeros(batch, heads, columns)
        for i, p in enumerate(self.pieces):
            weights, rows = self._piece(i), ground.rows[:, None, p].expand(-1, heads, -1)
            back = (weights @ from_columns)[..., 0]
            stays = weights.gather(3, rows[..., None])[..., 0] * mass[:, None, p]
            ends = ends.scatter_add(2, rows, back - stays)
        return ends

    def _piece(self, number: int) -> Tensor:
        return self._made(self.pieces[number]) if self.held is None else self.held[number]

    def _made(self, piece: slice) -> Tensor:
        """Softmax rows [B, H, r, n]; rows that are not real are zero."""
        rows = self.ground.rows[:, piece]
        weights = self._softmax(self.query, self.even, rows, self._seen(rows))
        return weights.masked_fill(~self.ground.real[:, None, piece, None], 0)

    def _seen(self, rows: Tensor) -> Tensor:
        """What the softmax of rows [B, r] runs over."""
        seen = row_mask(self.mask, rows, self.key.shape[2], self.ground.valid)
        return _within(seen, self.ground.visual[:, None, None, :]) if self.only_visual else seen

    def _softmax(self, query: Tensor, even: tuple[Tensor, Tensor] | None, rows: Tensor, seen: Tensor) -> Tensor:
        """Softmax of rows [B, r] of a query, divided by that of `even`: [B, H, r, n]."""
        weights = attention_rows(query, self.key, rows, self.scaling, seen)
        if even is None:
            return weights
        alone = attention_rows(*even, rows, self.scaling, seen)
        return torch.where(alone > 0, weights / alone, 0)


def _within(mask: Tensor, among: Tensor) -> Tensor:
    """A bool or additive mask that lets through less."""
    if mask.dtype == torch.bool:
        return mask & among
    return mask.masked_fill((mask < torch.finfo(mask.dtype).min / 2) | ~among, float("-inf"))


def _even(on: Tensor) -> Tensor:
    """The same mass on every True entry of [B, R], 1 in all."""
    return on.float() / on.sum(1, keepdim=True).clamp(min=1)


def _gated(mass: Tensor, real: Tensor, gate: float) -> Tensor:
    """Even mass on the real rows that hold more than `gate` times the mean, or the most of all: [B, R]."""
    mass = mass.masked_fill(~real, 0)
    mean = mass.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
    return _even(((mass > gate * mean) | (mass == mass.amax(1, keepdim=True))) & real)


def meet(ends: Tensor, heads: DecoderHeads, visual: Tensor) -> Tensor:
    """The heads' ends as one: [B, H, n] -> [B, n]. `top_half`: the mean of those that bring most to `visual` [B, n], of
    equal ones the first; `each`: they stay apart, [B, n, H]."""
    if heads == "each":
        return ends.transpose(1, 2)
    if heads == "sum":
        return ends.sum(1)
    if heads == "max":
        return ends.amax(1)
    if heads == "rms":
        return ends.square().mean(1).sqrt()
    if heads == "top_half":
        half = max(1, ends.shape[1] // 2)
        brought = ends.masked_fill(~visual[:, None], 0).sum(2)
        most = brought.amax(1, keepdim=True).clamp(min=torch.finfo(brought.dtype).tiny)
        brought = (brought / most * GRAIN).round()  # where a window shows visual tokens only, every head brings all
        count = torch.full((len(ends),), half, device=ends.device)
        chosen = best(brought, torch.ones_like(brought, dtype=torch.bool), count)
        return ends.masked_fill(~chosen[..., None], 0).sum(1) / half
    return ends.mean(1)


def raters(visual: Tensor, real_visual: Tensor, text: Tensor, real_text: Tensor) -> Tensor:
    """Text rows that visual tokens are most alike, [B, R] bool: above-average mean of softmax(V Tᵀ) over the text.

    visual [B, N, D] and text [B, R, D] as they enter the language model; where none is above the average, all are.
    """
    likeness = (visual.float() @ text.float().transpose(1, 2)).masked_fill(~real_text[:, None], float("-inf"))
    shares = likeness.softmax(2).nan_to_num(0).masked_fill(~real_visual[..., None], 0).sum(1)
    mean = shares.sum(1, keepdim=True) / real_text.sum(1, keepdim=True).clamp(min=1)
    found = (shares > mean) & real_text
    return torch.where(found.any(1, keepdim=True), found, real_text)
