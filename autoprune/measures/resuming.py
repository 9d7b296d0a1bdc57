"""Teacher-forced passes that start where an earlier pass over the same batch already was.

Kept are, of every batch: its image features with all signals that policies have asked the tower for; the unpruned
sequence at the entry of decoder layers, left by whoever passes there first; and the pruned one before each later stage
of a policy. A pass goes on from the deepest of them that its own policy leads to (a trie over the stages' prefixes).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.calibration.batches import Batch
from autoprune.measures.capture import State
from autoprune.measures.loading import Loaded
from autoprune.measures.passes import Trace, run
from autoprune.measures.prefix_cache import PrefixCache
from autoprune.policy.prefix import prefix_digest
from autoprune.pruning.plan import Plan
from autoprune.pruning.replay import Replay
from autoprune.pruning.snapshot import Snapshot, lacking

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.session import Session


@dataclass(frozen=True)
class Where:
    """A batch among all: its split, whose answers it holds, and the places of its records in the split."""

    split: Hashable
    answers: Hashable
    records: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Point:
    """A snapshot, and the states [R, width] after the layers before it."""

    snapshot: Snapshot
    states: dict[State, Tensor]


@dataclass(frozen=True)
class Parts:
    """Which of the four ways to save work are taken (for benchmarks; all are exact)."""

    images: bool = True
    resume: bool = True
    trie: bool = True
    last: bool = True


class Resuming:
    """Passes over one model. `states`: all that any measure of this worker looks at."""

    def __init__(self, loaded: Loaded, cache: PrefixCache, states: Sequence[State], parts: Parts | None = None) -> None:
        self.cache = cache
        self._loaded, self._states, self._parts = loaded, tuple(states), parts or Parts()
        self._depth = loaded.geometry.depth
        self._trims = self._parts.last and ("text", self._depth) not in self._states
        self._digests: dict[int, str] = {}
        self._digested: Plan | None = None

    def spacing(self, positions: int) -> int:
        """Of how many decoder layers one is kept, so that the unpruned sequence of `positions` columns fits half of
        the cache."""
        geometry = self._loaded.geometry
        whole = positions * geometry.width * self._loaded.dtype.itemsize * (geometry.depth - 1)
        return max(1, math.ceil(2 * whole / self.cache.bound))

    def run(self, batch: Batch, where: Where, wanted: Sequence[State], session: Session, every: int = 1) -> Trace:
        """What `passes.run` gives. `every`: of the unpruned sequence only every so many layers are kept."""
        plan = session.plan
        images = ("images", where.split, where.records)
        point = self._deepest(where, plan)
        replay = Replay(
            start=None if point is None else point.snapshot,
            images=self.cache.get(images) if self._parts.images else None,
            wanted=self._wanted(where, plan, 0 if point is None else point.snapshot.layer, every),
            rows=batch.scored if self._trims else None,
        )
        before = None if replay.images is None else replay.images.signals
        with session.replaying(replay):
            trace = run(self._loaded, batch, self._states, session, None if point is None else point.states)
        self._count(replay)
        if self._parts.images and replay.seen is not None and before != replay.seen.signals:
            self.cache.put(images, replay.seen)
        for taken in replay.taken:
            self._keep(where, plan, _Point(taken, {s: v for s, v in trace.states.items() if s[1] <= taken.layer}))
        return Trace(trace.logits, {state: trace.states[state] for state in wanted}, trace.rows)

    def _count(self, replay: Replay) -> None:
        stats = self.cache.stats
        stats.hits, stats.misses = stats.hits + (replay.first > 0), stats.misses + (replay.first == 0)
        stats.layers, stats.of_layers = stats.layers + replay.first, stats.of_layers + self._depth

    def _key(self, where: Where, plan: Plan, layer: int) -> Hashable:
        if self._digested is not plan:
            self._digested, self._digests = plan, {}
        if layer not in self._digests:
            self._digests[layer] = prefix_digest(plan.resolved, layer)
        return ("state", where, self._digests[layer], layer)

    def _deepest(self, where: Where, plan: Plan) -> _Point | None:
        """The deepest point that this plan leads to and that knows every signal its later stages want."""
        if not self._parts.resume:
            return None
        for layer in range(self._depth - 1, 0, -1):
            key = self._key(where, plan, layer)
            signals = self.cache.label(key)
            if signals is None or lacking(plan, layer, signals):
                continue
            found: _Point | None = self.cache.get(key)
            if found is not None:
                return found
        return None

    def _wanted(self, where: Where, plan: Plan, start: int, every: int) -> frozenset[int]:
        """At which layers after `start` a snapshot is worth keeping: on the way to the first stage all of every so many
        that are not there yet, and before each stage."""
        if not self._parts.resume:
            return frozenset()
        at = [planned.stage.layer for planned in plan.stages]
        first = min(at, default=self._depth - 1)
        unpruned = [layer for layer in range(start + 1, first + 1) if layer % every == 0 or layer == self._depth - 1]
        fresh = {layer for layer in unpruned if self.cache.label(self._key(where, plan, layer)) is None}
        later = at if self._parts.trie else at[:1]
        return frozenset(fresh | {layer for layer in later if layer > start})

    def _keep(self, where: Where, plan: Plan, point: _Point) -> None:
        """Remember a point, with the signals that are known there already."""
        key = self._key(where, plan, point.snapshot.layer)
        known = self.cache.label(key)
        if known is not None and not known <= frozenset(point.snapshot.captured):
            old: Any = self.cache.get(key)
            if old is not None:
                point = _Point(point.snapshot.knowing(old.snapshot.captured), point.states)
        self.cache.put(key, point, frozenset(point.snapshot.captured))
