"""Which arm proposes next: trials go where the front's hypervolume grows.

Every arm has `LEAST` proposals first. Then an upper confidence bound (Auer et al., Finite-time Analysis of the
Multiarmed Bandit Problem, 2002) on the mean gain of the arm's newest `WINDOW` proposals, as a part of the best arm's:
gains shrink as a front fills, so only recent ones tell. A proposal that came to nothing (infeasible, failed, known
before, dropped at a rung) gained nothing. A function of the settled records and of what is in flight alone.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autoprune.search.growth import Growth

if TYPE_CHECKING:
    from autoprune.ports import TrialRecord
    from autoprune.spec.goals import Objective

LEAST = 3
WINDOW = 12


class Bandit:
    """Follows a study's records and says which of its arms is next."""

    def __init__(self, arms: Sequence[str], objectives: Sequence[Objective]) -> None:
        self.arms = tuple(arms)
        self._seen = 0
        self._growth = Growth(objectives)
        self.asked: Counter[str] = Counter()
        self.gained: dict[str, float] = dict.fromkeys(arms, 0.0)
        self._recent: dict[str, deque[float]] = {arm: deque(maxlen=WINDOW) for arm in arms}

    def choose(self, records: Sequence[TrialRecord], running: Mapping[str, int]) -> str:
        """The next arm. `running`: how many proposals of each arm are in flight, of unknown gain."""
        if len(self.arms) == 1:
            return self.arms[0]
        self.follow(records)
        counts = {arm: self.asked[arm] + running.get(arm, 0) for arm in self.arms}
        first = min(self.arms, key=lambda arm: counts[arm])
        if counts[first] < LEAST:
            return first
        means = {arm: sum(gains) / len(gains) if (gains := self._recent[arm]) else 0.0 for arm in self.arms}
        best, total = max(means.values()) or 1.0, sum(counts.values())

        def score(arm: str) -> float:
            return means[arm] / best + math.sqrt(2 * math.log(total) / counts[arm])

        return max(self.arms, key=score)

    def told(self, records: Sequence[TrialRecord]) -> list[str]:
        """For people: what each arm was given and what it brought. Nothing without arms."""
        if len(self.arms) == 1:
            return []
        self.follow(records)
        whole = sum(self.gained.values()) or 1.0
        shares = (f"{arm} {self.asked[arm]} ({self.gained[arm] / whole:.0%})" for arm in self.arms)
        return [f"proposals by arm, and their part of what the front's hypervolume grew by: {', '.join(shares)}"]

    def follow(self, records: Sequence[TrialRecord]) -> None:
        """Take in what was settled since; references make the front that gains are counted from."""
        for record in records[self._seen :]:
            before = self._growth.hypervolume or 0.0
            self._growth.add(record)
            gain = (self._growth.hypervolume or 0.0) - before
            if record.origin == "trial" and record.sampler_number is not None and record.arm in self._recent:
                self.asked[record.arm] += 1
                self.gained[record.arm] += gain
                self._recent[record.arm].append(gain)
        self._seen = len(records)
