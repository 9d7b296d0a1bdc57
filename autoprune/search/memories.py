"""The samplers' memories of a study's arms, as one: an Optuna study each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.search.memory import Asked, SamplerMemory, Told

if TYPE_CHECKING:
    from autoprune.ports import TrialRecord
    from autoprune.search.plan import StudyPlan
    from autoprune.search.strategy import SamplerKind


class Memories:
    """`of[arm]`; a study without arms has one, under the empty name. What is paid for is written down in the first."""

    def __init__(self, plan: StudyPlan, records: Sequence[TrialRecord], make: type[SamplerMemory]) -> None:
        self.of = {arm: make(plan, [r for r in records if r.arm == arm], arm) for arm in plan.arms}
        self._first = next(iter(self.of.values()))

    def unsettled(self, records: Sequence[TrialRecord]) -> list[Told]:
        by_arm = {arm: [r for r in records if r.arm == arm] for arm in self.of}
        return [told for arm, memory in self.of.items() for told in memory.unsettled(by_arm[arm])]

    def release(self) -> None:
        for memory in self.of.values():
            memory.release()

    def waiting(self) -> str | None:
        """The first arm in which an enqueued proposal waits."""
        return next((arm for arm, memory in self.of.items() if memory.has_waiting()), None)

    def ask(self, kind: SamplerKind, fruitless: int, arm: str) -> Asked:
        return self.of[arm].ask(kind, fruitless)

    def mark_dispatched(self, key: str) -> None:
        self._first.mark_dispatched(key)

    def was_dispatched(self, key: str) -> bool:
        return self._first.was_dispatched(key)
