"""What a prefill hears while a decoder layer runs: the signals that its stages want, from queries, keys and modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from autoprune.pruning.block import statistic
from autoprune.pruning.decoder_signals import BlockStatistic, DecoderKeys, DecoderWalk, KeyNorm, Transition
from autoprune.pruning.decoder_walk import Ground, walk
from autoprune.pruning.rotation import even, from_zero, unrotated
from autoprune.pruning.signals import Signal
from autoprune.pruning.tap import Abort
from autoprune.pruning.tensors import take
from autoprune.pruning.transition import transition

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.prefill import Prefill


def listen(
    prefill: Prefill, number: int, attention: Any, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None
) -> None:
    """Tap of decoder layer `number`: take what later (or, while probing, this layer's own) stages want."""
    if prefill.probing:
        wanted: Sequence[Signal] = [s for p in prefill.plan.at(number) for s in p.own_signals]
    else:
        wanted = prefill.plan.wanted_after(number)
    for signal in wanted:
        if isinstance(signal, KeyNorm):
            prefill.captured[signal] = prefill.layout.scatter(_key_norm(prefill, signal, attention, key))
        elif isinstance(signal, DecoderKeys):
            rows = key.float().mean(1) if signal.heads == "mean" else key.transpose(1, 2).flatten(2)
            prefill.captured[signal] = prefill.layout.scatter(rows)
        elif isinstance(signal, DecoderWalk):
            q, k = (query, key) if signal.rope else unrotated(attention, query, key, prefill.rotation)
            ones = even(attention, query, prefill.rotation) if signal.over_rope else None
            found = walk(q, k, scaling, mask, _ground(prefill, signal), signal, ones)
            prefill.captured[signal] = prefill.layout.scatter(found)
        elif isinstance(signal, BlockStatistic):
            found = statistic(query, key, scaling, mask, _ground(prefill, signal), signal)
            prefill.captured[signal] = found[:, None].expand(-1, prefill.layout.logical)
    if prefill.probing:
        raise Abort


def _key_norm(prefill: Prefill, signal: KeyNorm, attention: Any, key: Tensor) -> Tensor:
    """Norm [B, n] of key [B, Hkv, n, D] over all heads."""
    if signal.order == "l1" and prefill.layout.valid is not None and prefill.rotation is not None:
        first = prefill.layout.valid.to(torch.int8).argmax(1, keepdim=True)
        key = from_zero(attention, key, prefill.rotation, first)
    norm: Tensor = torch.linalg.vector_norm(key.float(), 1 if signal.order == "l1" else 2, dim=(1, 3))
    return norm


def transitioned(prefill: Prefill, number: int, before: Tensor, after: Tensor) -> None:
    """A module of decoder layer `number` has made `after` of `before`, [B, n, D] each."""
    signal = Transition(number)
    if prefill.probing or signal not in prefill.plan.signals:
        return
    value = prefill.layout.scatter(transition(before, after, prefill.here(prefill.prompt.asked)))
    prefill.captured[signal] = prefill.captured[signal] + value if signal in prefill.captured else value


def _ground(prefill: Prefill, signal: DecoderWalk | BlockStatistic) -> Ground:
    """Where a walk goes at the layer that runs, or the rows of a block."""
    last = prefill.prompt.last == torch.arange(prefill.layout.logical, device=prefill.embeds.device)
    among, count = prefill.prompt.text, prefill.prompt.text_rows
    if signal.start == "all":
        among, count = prefill.prompt.asked, prefill.layout.width
    elif signal.start in ("vision", "norm"):
        among, count = prefill.prompt.visual, max(max(prefill.now), 1)
    elif isinstance(signal, DecoderWalk) and signal.start == "last" and signal.hops == 1:
        among, count = last, 1
    rows, real = prefill.rows(among, count)
    start = real
    if signal.start in ("last", "raters"):
        from_these = last if signal.start == "last" else prefill.raters
        start = real & prefill.here(from_these).gather(1, rows)
    mass = None
    if signal.start == "norm":
        lengths = torch.linalg.vector_norm(take(prefill.entering, rows, 1).float(), dim=-1).masked_fill(~real, 0)
        mass = lengths / lengths.sum(1, keepdim=True).clamp(min=torch.finfo(lengths.dtype).tiny)
    return Ground(rows, real, start, prefill.here(prefill.prompt.visual), prefill.layout.valid, mass)
