"""Attention of a vision tower as a walk: mass starts on some tokens and is passed on as the attention says.

p₀ is a start, p ← p·A one hop, and a token's score is what has reached it. With A the softmax map of one block:

* `cls`: one hop from the class token is its attention row. `all`: one hop from an even start is the mean of A's rows,
  the attention each token receives; `patches` leaves the class token out of the start, `norm` starts on the patches by
  the length of their features. `query`: the softmax row of the mean query stands for the first hop.
* Every head walks in its own map; `heads` puts their ends together, `variance` leaves out heads whose scores are almost
  even or almost all on one patch (Zero-TPrune). k hops from `all` are k steps of PageRank without a
  restart (Zero-TPrune, AIM, with `rms`).
* With a `gate` t the heads meet after each hop but the last: patches that hold more than t times the mean patch go on,
  each with the same mass, in every head (VFlowOpt: 2 hops from `patches`). The one that holds most always goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from autoprune.pruning.tap import attention_rows
from autoprune.pruning.tensors import best

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.encoder_signals import EncoderWalk, Over

MAP = 1 << 26  # entries of attention maps held at a time: 256 MiB
TINY = torch.finfo(torch.float32).tiny


def walk(query: Tensor, key: Tensor, scaling: float, asked: EncoderWalk, lengths: Tensor | None = None) -> Tensor:
    """Mass on each tower token [B, T] in float32, from query [B, H, T, D] and key of one block; B tower inputs. Of
    heads `each` [B, T, H]. `lengths` [B, T]: of the tokens' features as they enter the block, for the start `norm`."""
    if asked.heads == "joined":
        query, key = _joined(query), _joined(key)
        scaling = query.shape[-1] ** -0.5
    scaling = scaling / asked.temperature
    if asked.start in ("cls", "query") and asked.hops == 1:
        return _meet(_first(query, key, scaling, asked), asked)
    size = max(1, MAP // (query.shape[1] * query.shape[2] ** 2))
    starts = range(0, len(query), size)
    pieces = [slice(i, i + size) for i in starts]
    begins = [None if lengths is None else lengths[p] for p in pieces]
    return torch.cat([_hops(query[p], key[p], scaling, asked, b) for p, b in zip(pieces, begins, strict=True)])


def put_together(over: Over, count: int, before: Tensor | None, value: Tensor) -> Tensor:
    """The ends in several blocks as one, block by block; `count` blocks in all. `ema`: half of what was, half of the
    new. `difference`: the last less the first."""
    if over == "mean":
        value = value / count
    if before is None:
        return value
    if over == "ema":
        return (before + value) / 2
    return value - before if over == "difference" else before + value


def _first(query: Tensor, key: Tensor, scaling: float, asked: EncoderWalk) -> Tensor:
    """The first hop from the class token, or in place of it the row of the mean query: [B, H, T]."""
    if asked.start == "query":
        query = query.float().mean(2, keepdim=True).to(query.dtype)
    rows = torch.zeros(query.shape[0], 1, dtype=torch.long, device=query.device)  # CLS is the first row
    return attention_rows(query, key, rows, scaling, None)[:, :, 0]


def _hops(query: Tensor, key: Tensor, scaling: float, asked: EncoderWalk, lengths: Tensor | None) -> Tensor:
    """All hops with the whole map at hand: [B, T], of heads `each` [B, T, H]."""
    rows = torch.arange(query.shape[2], device=query.device).expand(query.shape[0], -1)
    weights = attention_rows(query, key, rows, scaling, None)
    if asked.start == "query":
        mass = _first(query, key, scaling, asked)
    elif asked.start == "cls":
        mass = weights[:, :, 0]
    elif asked.start == "norm":
        mass = (_by_length(lengths, int(asked.has_cls))[:, None, None] @ weights)[:, :, 0]
    else:
        mass = weights[:, :, int(asked.start == "patches") :].mean(2)
    for _ in range(asked.hops - 1):
        if asked.gate is not None:
            together = mass.mean(1) if asked.heads == "each" else _meet(mass, asked)
            mass = _gated(together, asked.gate, int(asked.has_cls))[:, None].expand_as(mass)
        mass = (mass[:, :, None] @ weights)[:, :, 0]
    return _meet(mass, asked)


def _gated(mass: Tensor, gate: float, before: int) -> Tensor:
    """Even mass on the patches that hold more than `gate` times their mean, or the most of all; none on the `before`
    tokens before them."""
    patches = mass[:, before:]
    on = ((patches > gate * patches.mean(1, keepdim=True)) | (patches == patches.amax(1, keepdim=True))).float()
    return torch.nn.functional.pad(on / on.sum(1, keepdim=True), (before, 0))


def _by_length(lengths: Tensor | None, before: int) -> Tensor:
    """Mass on the patches in proportion to `lengths` [B, T], none on the `before` tokens before them."""
    if lengths is None:
        raise ValueError("a walk from `norm` needs the lengths of the features")
    patches = lengths[:, before:].float()
    return torch.nn.functional.pad(patches / patches.sum(1, keepdim=True).clamp(min=TINY), (before, 0))


def _counting(mass: Tensor, bounds: tuple[float, float] | None, before: int) -> Tensor:
    """Which heads [B, H] count: those whose patches' scores, scaled to mean 1, have a variance within the bounds."""
    patches = mass[:, :, before:]
    if bounds is None:
        return torch.ones_like(patches[..., 0], dtype=torch.bool)
    spread = (patches / patches.mean(2, keepdim=True).clamp(min=TINY)).var(2, unbiased=False)
    inside = (spread >= bounds[0]) & (spread <= bounds[1])
    return inside | ~inside.any(1, keepdim=True)


def _meet(mass: Tensor, asked: EncoderWalk) -> Tensor:
    """The heads' ends as one: [B, H, T] -> [B, T]; of `each` they stay apart, [B, T, H]."""
    if asked.heads == "each":
        return mass.transpose(1, 2)
    if asked.heads == "sum":
        return mass.sum(1)
    if asked.heads == "max":
        return mass.amax(1)
    if asked.heads == "rms":
        counts = _counting(mass, asked.variance, int(asked.has_cls))
        return ((mass.square() * counts[..., None]).sum(1) / counts.sum(1, keepdim=True)).sqrt()
    if asked.heads == "top_half":
        count = torch.full((len(mass),), max(1, mass.shape[1] // 2), device=mass.device)
        on_patches = mass[:, :, int(asked.has_cls) :].sum(2)
        chosen = best(on_patches, torch.ones_like(on_patches, dtype=torch.bool), count)
        return (mass * chosen[..., None]).sum(1) / count[:, None]
    return mass.mean(1)


def _joined(states: Tensor) -> Tensor:
    """All heads side by side as one: [B, H, T, D] -> [B, 1, T, H·D]."""
    return states.transpose(1, 2).flatten(2)[:, None]
