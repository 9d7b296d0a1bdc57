"""What an explanation is made from, and what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


def plural(count: int, one: str, many: str = "") -> str:
    """`1 evaluation`, `2 evaluations`."""
    return f"{count} {one if count == 1 else many or one + 's'}"
