"""Measured prefill: what a policy really saves, and what deciding costs, as ratios taken side by side on one machine.

Three things run in turn, in an order drawn anew every round: the untouched model, the policy, and the policy's
schedule with a choice that costs nothing (evenly spaced tokens, dropped). What the second takes longer than the third
is the price of deciding, captures and merging included. Absolute times mean nothing elsewhere: only `prefill_seconds`
returns them, for the machine that serves.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from autoprune.calibration.batches import batches
from autoprune.errors import BadInput
from autoprune.policy.budget import PARK
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy
from autoprune.pruning.guarding import Texts
from autoprune.pruning.session import Session

if TYPE_CHECKING:
    from autoprune.calibration.batches import Batch
    from autoprune.calibration.encoding import Row
    from autoprune.measures.loading import Loaded


@dataclass(frozen=True)
class Spread:
    """Median of the rounds' ratios, and their quartiles."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Spread:
        low, middle, high = quantiles(ratios, n=4, method="inclusive")
        return cls(middle, low, high)


@dataclass(frozen=True)
class Timing:
    """prefill: pruned over unpruned time, vision tower included. selection: share of the pruned prefill that deciding
    takes; below 0 where it is lost in the noise."""

    prefill: Spread
    selection: Spread


def undecided(resolved: ResolvedPolicy, counts: Sequence[Sequence[int]] = ()) -> ResolvedPolicy:
    """The same numbers of tokens at the same places, chosen for free. `counts`: what was kept of each sample after
    every stage; where a rule or a guard decides, all keep as many as the sample of most, to which a batch is padded."""
    free = (ResolvedPick(None, Part("stride", {}), None),)
    stages = []
    for i, stage in enumerate(resolved.stages):
        known = not stage.keep.decided and not resolved.guard
        keep = replace(stage.keep, rule=None) if known else Keep("tokens", Fraction(max(counts[i])))
        merge = stage.merge if stage.merge.name == PARK else Part("drop", {})  # what is parked has to come back
        stages.append(replace(stage, keep=keep, picks=free if stage.picks else (), merge=merge))
    return replace(resolved, stages=tuple(stages), guard=())


def time_prefill(
    loaded: Loaded, rows: Sequence[Row], resolved: ResolvedPolicy, rounds: int = 7, seed: int = 0
) -> Timing:
    """Time one batch of prompts. Raises BadInput for fewer than two rounds: a ratio needs a spread."""
    batch = _batch(loaded, rows)
    free = undecided(resolved, _counts(loaded, batch, resolved, _texts(rows, batch)))
    runs = _runners(loaded.model, batch.inputs, {"full": None, "pruned": resolved, "free": free}, _texts(rows, batch))
    taken = _in_turn(runs, rounds, seed)
    pairs = list(zip(taken["full"], taken["pruned"], taken["free"], strict=True))
    return Timing(
        Spread.of([pruned / full for full, pruned, _ in pairs]),
        Spread.of([1 - free / pruned for _, pruned, free in pairs]),
    )


def prefill_ratio(
    loaded: Loaded, rows: Sequence[Row], resolved: ResolvedPolicy, rounds: int = 7, seed: int = 0
) -> Spread:
    """Pruned over unpruned time of one batch of prompts, vision tower included; exactly 1 where nothing is pruned, so
    that it can be a baseline. Raises BadInput for fewer than two rounds."""
    if not resolved.stages:
        return Spread(1.0, 1.0, 1.0)
    batch = _batch(loaded, rows)
    taken = _in_turn(
        _runners(loaded.model, batch.inputs, {"full": None, "pruned": resolved}, _texts(rows, batch)), rounds, seed
    )
    return Spread.of([pruned / full for full, pruned in zip(taken["full"], taken["pruned"], strict=True)])


def prefill_seconds(
    model: Any,
    inputs: Mapping[str, Any],
    policies: Mapping[str, ResolvedPolicy | None],
    rounds: int,
    seed: int = 0,
    texts: Texts | None = None,
) -> dict[str, Spread]:
    """Seconds that a prefill of these inputs takes under each policy (None: unpruned), all in turn: good on this
    machine, for requests like this one; `texts` says their words to a guard. Raises BadInput for fewer than two rounds.
    """
    taken = _in_turn(_runners(model, inputs, policies, texts or Texts()), rounds, seed)
    return {name: Spread.of(seconds) for name, seconds in taken.items()}


def _batch(loaded: Loaded, rows: Sequence[Row]) -> Batch:
    return next(iter(batches(rows, [()] * len(rows), len(rows), loaded.pad, str(loaded.model.device))))


def _in_turn(runs: Mapping[str, Callable[[], float]], rounds: int, seed: int) -> dict[str, list[float]]:
    """What each run took in every round, in an order drawn anew each time; a first one of each is not counted."""
    if rounds < 2:
        raise BadInput(f"a timing needs at least 2 rounds, not {rounds}")
    order, taken = random.Random(seed), {name: list[float]() for name in runs}
    for run in runs.values():  # the first one of each allocates
        run()
    for _ in range(rounds):
        for name in order.sample(sorted(runs), len(runs)):
            taken[name].append(runs[name]())
    return taken


def _counts(loaded: Loaded, batch: Batch, resolved: ResolvedPolicy, texts: Texts) -> Sequence[Sequence[int]]:
    """What the policy keeps of each sample after every stage, where it takes a run to know."""
    import torch

    if not resolved.adaptive:
        return ()
    with Session(loaded.model, resolved, texts) as session, torch.inference_mode():
        loaded.model(**batch.inputs, use_cache=False, logits_to_keep=1)
        return session.run.counts


def _runners(
    model: Any, inputs: Mapping[str, Any], policies: Mapping[str, ResolvedPolicy | None], texts: Texts
) -> dict[str, Callable[[], float]]:
    return {name: _runner(model, inputs, resolved, texts) for name, resolved in policies.items()}


def _texts(rows: Sequence[Row], batch: Batch) -> Texts:
    return Texts(given=[rows[i].words for i in batch.indices])


def _runner(
    model: Any, inputs: Mapping[str, Any], resolved: ResolvedPolicy | None, texts: Texts
) -> Callable[[], float]:
    """Runs the batch once; -> seconds of the forward alone, attaching left out."""
    import torch

    def wait() -> None:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)

    def run() -> float:
        attached = nullcontext() if resolved is None else Session(model, resolved, texts)
        with attached, torch.inference_mode():
            wait()
            started = time.perf_counter()
            model(**inputs, use_cache=True, logits_to_keep=1)
            wait()
            return time.perf_counter() - started

    return run
