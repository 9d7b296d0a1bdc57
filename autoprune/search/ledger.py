"""What is settled so far, as the driver counts it. A view of the log's records, kept in step with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprune.ports import TrialRecord

LOST = "lost"


class Ledger:
    """Records by number; the points known complete or failed, by digest."""

    def __init__(self, records: Sequence[TrialRecord]) -> None:
        self.records: list[TrialRecord] = []
        self.complete = 0
        self.fruitless = 0
        self._complete: dict[str, TrialRecord] = {}
        self._failed: dict[str, TrialRecord] = {}
        self._references: set[str] = set()
        for record in records:
            self.add(record)
        self._inherited = len(self.records)

    def add(self, record: TrialRecord) -> None:
        self.records.append(record)
        if record.origin == "baseline":
            return
        if record.origin == "reference":
            self._references.add(record.digest)
        fresh = not record.cached and record.state == "complete"
        self.complete += fresh
        new = record.state == "complete" and record.digest not in self._complete
        # In a row: nothing came of it that this study did not know (a new failure is news, too).
        self.fruitless = 0 if new or _counts_as_failed(record) else self.fruitless + 1
        if record.state == "complete":
            self._complete.setdefault(record.digest, record)
        elif record.state == "failed" and not record.reason.startswith(LOST):
            self._failed.setdefault(record.digest, record)

    @property
    def next_number(self) -> int:
        return len(self.records)

    @property
    def baseline(self) -> TrialRecord | None:
        return next((r for r in self.records if r.origin == "baseline"), None)

    def completed(self, digest: str) -> TrialRecord | None:
        return self._complete.get(digest)

    def failure(self, digest: str) -> TrialRecord | None:
        return self._failed.get(digest)

    def is_settled_reference(self, digest: str) -> bool:
        return digest in self._references

    @property
    def failed(self) -> int:
        """All failed evaluations of the study."""
        return sum(_counts_as_failed(r) for r in self.records)

    def failures_of_this_run(self) -> list[TrialRecord]:
        return [r for r in self.records[self._inherited :] if _counts_as_failed(r)]

    def settled_in_this_run(self) -> int:
        """Evaluations that ended in this run, well or badly."""
        new = self.records[self._inherited :]
        return sum(1 for r in new if r.origin != "baseline" and not r.cached and r.state != "infeasible")


def _counts_as_failed(record: TrialRecord) -> bool:
    return record.state == "failed" and not record.cached
