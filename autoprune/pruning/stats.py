"""What a session has done since it was attached, counted over all threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoprune.pruning.record import Run


@dataclass(frozen=True)
class Stats:
    """prefills and the samples with images in them; `tokens`: their visual tokens; `entered`: visual positions that
    entered decoder layers, out of `unpruned`."""

    prefills: int = 0
    samples: int = 0
    tokens: int = 0
    entered: int = 0
    unpruned: int = 0

    @property
    def budget(self) -> float:
        """Of everything that ran; 1 where nothing has."""
        return self.entered / self.unpruned if self.unpruned else 1.0


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
        tokens, entered = sum(run.n), sum(map(sum, run.lengths))
        with self._lock:
            s = self._stats
            self._stats = replace(
                s,
                prefills=s.prefills + 1,
                samples=s.samples + sum(n > 0 for n in run.n),
                tokens=s.tokens + tokens,
                entered=s.entered + entered,
                unpruned=s.unpruned + tokens * run.depth,
            )
