"""What a session has done since it was attached, counted over all threads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoprune.pruning.record import Run


@dataclass(frozen=True)
class Stats:
    """prefills and the samples with images in them; `tokens`: their visual tokens; `entered`: visual positions that
    entered decoder layers, out of `unpruned`; `guarded`: for how many samples each rule of a guard has fired."""

    prefills: int = 0
    samples: int = 0
    tokens: int = 0
    entered: int = 0
    unpruned: int = 0
    guarded: Mapping[str, int] = field(default_factory=dict)

    @property
    def budget(self) -> float:
        """Of everything that ran; 1 where nothing has."""
        return self.entered / self.unpruned if self.unpruned else 1.0

    def __add__(self, other: Stats) -> Stats:
        return Stats(
            self.prefills + other.prefills,
            self.samples + other.samples,
            self.tokens + other.tokens,
            self.entered + other.entered,
            self.unpruned + other.unpruned,
            dict(Counter(self.guarded) + Counter(other.guarded)),
        )

    @classmethod
    def of(cls, run: Run) -> Stats:
        """One prefill."""
        tokens, entered = sum(run.n), sum(map(sum, run.lengths))
        guarded = Counter(rule for rule in run.guarded if rule)
        return cls(1, sum(n > 0 for n in run.n), tokens, entered, tokens * run.depth, dict(guarded))


class Counted:
    """Stats that threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stats = Stats()

    @property
    def stats(self) -> Stats:
        return self._stats

    def add(self, run: Run) -> None:
        """One prefill that has come to its end."""
        with self._lock:
            self._stats = self._stats + Stats.of(run)
