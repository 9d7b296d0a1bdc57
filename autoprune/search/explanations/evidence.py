"""What an explanation is made from, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.ports import Measurement, TrialRecord
    from autoprune.search.plan import StudyPlan
    from autoprune.search.stop import StopReason


@dataclass(frozen=True)
class Explanation:
    """`data` are plain JSON values; `lines` say what is worth a person's attention (there may be none)."""

    data: Mapping[str, Any]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """A study that has ended. `records` are all settled points, `baseline` the unpruned model on the search split,
    `members` the front's points (empty where nothing met the constraints), `reason` why nothing more was asked."""

    plan: StudyPlan
    records: Sequence[TrialRecord]
    baseline: Measurement
    members: Sequence[TrialRecord]
    reason: StopReason

    @property
    def points(self) -> list[TrialRecord]:
        """Everything settled that is no baseline and no repetition."""
        return [r for r in self.records if r.origin != "baseline" and not r.cached]

    @property
    def complete(self) -> list[TrialRecord]:
        """The measured among them."""
        return [r for r in self.points if r.state == "complete"]


def by_arm(evidence: Evidence, explain: Callable[[Evidence], Explanation]) -> Explanation:
    """An explanation of what a space left open, for each arm by itself where there are arms."""
    if len(evidence.plan.arms) == 1:
        return explain(evidence)
    found = {arm: explain(_of(evidence, arm)) for arm in evidence.plan.arms}
    lines = (f"arm {arm}: {line}" for arm, one in found.items() for line in one.lines)
    return Explanation({arm: one.data for arm, one in found.items() if one.data}, tuple(lines))


def _of(evidence: Evidence, arm: str) -> Evidence:
    return replace(
        evidence,
        plan=replace(evidence.plan, proposals=evidence.plan.arms[arm], first_arm=arm, more_arms={}),
        records=[r for r in evidence.records if r.arm == arm],
        members=[r for r in evidence.members if r.arm == arm],
    )


def plural(count: int, one: str, many: str = "") -> str:
    """`1 evaluation`, `2 evaluations`."""
    return f"{count} {one if count == 1 else many or one + 's'}"
