"""Where a prefill stands at the entry of a decoder layer, and how another one of the same batch goes on from there.

Everything else of a prefill (prompt, images, embeddings, masks) is made anew from the same inputs. Nothing of a
snapshot is changed in place afterwards: the engine replaces tensors, and lists and dictionaries are copied both ways.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoprune.pruning.layout import Layout
from autoprune.pruning.parking import Parking
from autoprune.pruning.plan import Plan
from autoprune.pruning.record import Run
from autoprune.pruning.signals import Signal
from autoprune.pruning.translate import Translator

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.policy.budget import Counting
    from autoprune.pruning.prefill import Prefill


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state before layer `layer` and before the stages there. hidden [B, n, D]; the rest as in `Prefill`.
    `counting`: how far the counts of each sample have come; `fired`: what the guard has decided."""

    layer: int
    hidden: Tensor
    layout: Layout
    pristine: bool
    attends: bool
    lengths: list[int]
    now: list[int]
    run: Run
    tokens: Tensor
    mass: Tensor
    parking: Parking
    captured: dict[Signal, Tensor]
    shares: dict[int, list[int]]
    counting: list[Counting]
    fired: list[int | None]

    def knowing(self, captured: dict[Signal, Tensor]) -> Snapshot:
        """The same with more signals of the layers that have run."""
        return replace(self, captured={**captured, **self.captured})


def snapshot(prefill: Prefill, layer: int, hidden: Tensor) -> Snapshot:
    """The state of a prefill whose layer `layer` is about to begin with `hidden`."""
    return Snapshot(
        layer,
        hidden,
        prefill.layout,
        prefill.pristine,
        prefill.attends,
        list(prefill.lengths),
        list(prefill.now),
        _run(prefill.run),
        prefill.tokens,
        prefill.mass,
        _parking(prefill.parking),
        dict(prefill.captured),
        dict(prefill.shares),
        [copy.copy(c) for c in prefill.counting],
        list(prefill.guarding.fired),
    )


def restore(prefill: Prefill, state: Snapshot) -> None:
    """Put a prefill of the same batch, whose stages up to there are the same, where another one stood."""
    prefill.layout, prefill.pristine, prefill.attends = state.layout, state.pristine, state.attends
    prefill.translator = Translator(state.layout, prefill.implementation, prefill.rotary)
    prefill.lengths, prefill.now = list(state.lengths), list(state.now)
    prefill.run = _run(state.run)
    prefill.tokens, prefill.mass = state.tokens, state.mass
    prefill.parking = _parking(state.parking)
    prefill.captured, prefill.shares = dict(state.captured), dict(state.shares)
    same = bool(prefill.plan.resolved.guard) and any(c.number for c in state.counting)  # then it is the same policy's
    for own, reached in zip(prefill.counting, state.counting, strict=True):
        for name in ("current", "spent", "reached", "number", "entering", "parked"):
            setattr(own, name, getattr(reached, name))
        if same:
            own.steps = reached.steps
    if same:
        prefill.guarding.fired = list(state.fired)
    prefill.run.guarded = prefill.guarding.labels()


def lacking(plan: Plan, layer: int, known: frozenset[Signal]) -> bool:
    """Whether stages from `layer` on want signals of earlier layers that are not `known`."""
    from autoprune.pruning.decoder_signals import Tapped, Transition

    for planned in plan.stages:
        if planned.stage.layer < layer:
            continue
        for signal in planned.signals:
            earlier = isinstance(signal, Tapped | Transition) and signal.layer < layer
            if earlier and not getattr(signal, "own", False) and signal not in known:
                return True
    return False


def _run(run: Run) -> Run:
    lengths, layouts, tokens = list(run.lengths), list(run.layouts), list(run.tokens)
    return Run(run.n, run.depth, lengths, layouts, tokens, list(run.counts), list(run.guarded))


def _parking(parking: Parking) -> Parking:
    return Parking(parking.n, list(parking.counts), list(parking.events))
