"""Tokens that a stage set aside (`merge: park`), until a later one brings them back (`restore`).

A parked token waits as it was: hidden state, mass and place, none of which the layers in between see or hold in their
cache. `parked` brings it back like that. `scattered` moves it by what has become of the token it follows, the kept one
it was most alike: h + (r' - r), r at parking and r' now. A token that was dropped for good has no r', so those that
follow it come back unmoved; one that was parked itself is brought back first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from autoprune.pruning.layout import Layout
from autoprune.pruning.tensors import take, true_first

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView

Restore = Literal["parked", "scattered"]


@dataclass(frozen=True, eq=False)
class Present:
    """Visual tokens that are there: their numbers in the sample, which entries are real, hidden states and mass,
    [B, V] and [B, V, D]."""

    tokens: Tensor
    valid: Tensor
    hidden: Tensor
    mass: Tensor


@dataclass(frozen=True, eq=False)
class _Event:
    """One stage's parked tokens by number, [B, N]: which, whom they follow, mass, and everybody's hidden state then."""

    away: Tensor
    follows: Tensor
    mass: Tensor
    hidden: Tensor


@dataclass(eq=False)
class Parking:
    """N = the most tokens of a sample, before any stage. `counts`: how many of each sample are away."""

    n: int
    counts: list[int]
    events: list[_Event] = field(default_factory=list)

    def park(self, view: StageView, kept: Tensor, follows: Tensor, counts: Sequence[int]) -> None:
        """Set aside what is not `kept` [B, V]; `follows` [B, V] are columns of the view, `counts` how many."""
        numbers = view.tokens.gather(1, follows)
        away = self._spread(view.tokens, view.valid & ~kept)
        hidden = self._spread(view.tokens, view.hidden)
        event = _Event(away, self._spread(view.tokens, numbers), self._spread(view.tokens, view.mass), hidden)
        self.events.append(event)
        self.counts = [before + new for before, new in zip(self.counts, counts, strict=True)]

    def restore(self, there: Present, how: Restore, total: Sequence[int]) -> tuple[Present, Tensor, Tensor]:
        """All tokens in raster order, `total` of each sample; and by number: who came back [B, N], hidden states."""
        hidden, mass = self._spread(there.tokens, there.hidden), self._spread(there.tokens, there.mass)
        known = self._spread(there.tokens, there.valid)
        before = known
        for event in reversed(self.events):
            back, then = event.away & ~known, event.hidden
            if how == "scattered":
                moved = take(hidden, event.follows, 1).float() - take(event.hidden, event.follows, 1).float()
                moved = moved.masked_fill(~known.gather(1, event.follows)[..., None], 0)
                then = (event.hidden.float() + moved).to(event.hidden.dtype)
            hidden = torch.where(back[..., None], then, hidden)
            mass, known = torch.where(back, event.mass, mass), known | back
        self.events, self.counts = [], [0] * len(self.counts)
        tokens = true_first(known, max(max(total), 1))
        present = Present(tokens, known.gather(1, tokens), take(hidden, tokens, 1), mass.gather(1, tokens))
        return present, known & ~before, hidden

    def _spread(self, tokens: Tensor, values: Tensor) -> Tensor:
        """Values [B, V] or [B, V, D] of tokens by their number, [B, N] or [B, N, D]; zero for those not there."""
        index = tokens.view(*tokens.shape, *([1] * (values.ndim - 2))).expand_as(values)
        return values.new_zeros(values.shape[0], self.n, *values.shape[2:]).scatter(1, index, values)


def returned(
    layout: Layout, hidden: Tensor, columns: Tensor, back: Tensor, states: Tensor, lengths: Sequence[int]
) -> tuple[Layout, Tensor]:
    """hidden [B, n, D] of a layout with tokens `back` [B, N] beside it, at their logical columns [B, N], in hidden
    states `states` [B, N, D]; and its layout, with positions numbered anew where they were. `lengths`: of each sample.
    """
    batch, logical = len(hidden), layout.logical
    full = hidden.new_zeros(batch, logical, hidden.shape[2])
    full = full.scatter(1, layout.index[..., None].expand_as(hidden), hidden)
    there = torch.where(back[..., None], states, take(full, columns, 1))
    full = full.scatter(1, columns[..., None].expand_as(there), there)
    real = torch.ones_like(layout.index, dtype=torch.bool) if layout.valid is None else layout.valid
    alive = real.new_zeros(batch, logical).scatter(1, layout.index, real)
    alive = alive.scatter(1, columns, alive.gather(1, columns) | back)
    everything = torch.arange(logical, device=hidden.device).expand(batch, -1)
    grown, physical = Layout(everything, None, logical).select(alive, lengths)
    return (grown if layout.positions is None else grown.compacted()), take(full, physical, 1)
