"""What is settled so far, as the driver counts it. A view of the log's records, kept in step with them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from autoprune.search.rungs import DROPPED, PROMOTED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autoprune.ports import TrialRecord, TrialState
    from autoprune.search.plan import Rung

LOST = "lost"


class Ledger:
    """Records by number; the points known measured, failed or ruled out, by digest."""

    def __init__(self, records: Sequence[TrialRecord]) -> None:
        self.records: list[TrialRecord] = []
        self._measured: defaultdict[str, list[TrialRecord]] = defaultdict(list)
        self._looks: dict[tuple[str, str, int | None], TrialRecord] = {}
        self._failed: dict[str, TrialRecord] = {}
        self._lost: dict[str, TrialRecord] = {}
        self._ruled_out: dict[str, TrialRecord] = {}
        self._references: set[str] = set()
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._fruitless: defaultdict[str, int] = defaultdict(int)
        self.complete = self.failed = self._settled = 0
        self._failures: list[TrialRecord] = []
        for record in records:
            self.add(record)
        self._settled, self._failures = 0, []  # of this run

    def add(self, record: TrialRecord) -> None:
        self.records.append(record)
        if record.origin == "baseline":
            return
        if record.origin == "reference":
            self._references.add(record.digest)
        measured = record.state in ("complete", "partial", "screened")
        if measured and not record.cached:
            self._spent[record.phase] += record.share
            self.complete += record.state == "complete"
        new = measured and self._find(record.digest, record.state, record.limit) is None
        self._settled += not record.cached and record.state != "infeasible"
        if _counts_as_failed(record):
            self.failed += 1
            self._failures.append(record)
        # In a row: nothing came of it that this study did not know (a new failure is news, too).
        fruitful = new or _counts_as_failed(record)
        self._fruitless[record.phase] = 0 if fruitful else self._fruitless[record.phase] + 1
        if measured and record.reason.startswith((PROMOTED, DROPPED)):
            self._looks.setdefault((record.digest, record.state, record.limit), record)
        if measured:
            if self._find(record.digest, record.state, record.limit, record.values) is None:
                self._measured[record.digest].append(record)
        elif record.state == "infeasible" and record.digest:
            self._ruled_out.setdefault(record.digest, record)
        elif record.state == "failed":
            (self._lost if record.reason.startswith(LOST) else self._failed).setdefault(record.digest, record)

    @property
    def next_number(self) -> int:
        return len(self.records)

    @property
    def baseline(self) -> TrialRecord | None:
        return next((r for r in self.records if r.origin == "baseline"), None)

    def spent(self, *phases: str) -> float:
        """What these phases (none named: all) have cost, in full evaluations. Cache hits cost nothing."""
        return sum(cost for phase, cost in self._spent.items() if not phases or phase in phases)

    def fruitless(self, phase: str) -> int:
        """Points of the phase in a row, up to the last one, of which nothing new came."""
        return self._fruitless[phase]

    def measured(self, digest: str, limit: int | None = None, labels: Sequence[str] = ()) -> TrialRecord | None:
        """The policy's numbers on the first `limit` records, or on all; these measures must be among them."""
        return self._find(digest, "complete" if limit is None else "partial", limit, labels)

    def measurements(self, digest: str) -> list[TrialRecord]:
        """All of a policy, screens included, those on most records first."""
        return sorted(self._measured.get(digest, ()), key=lambda r: (r.limit is not None, -(r.limit or 0)))

    def _find(
        self, digest: str, state: TrialState, limit: int | None, labels: Iterable[str] = ()
    ) -> TrialRecord | None:
        for record in self._measured.get(digest, ()):
            if (record.state, record.limit) == (state, limit) and set(labels) <= record.values.keys():
                return record
        return None

    def look(self, digest: str, rung: Rung) -> TrialRecord | None:
        """What was decided about the policy at a rung: `reason` begins with PROMOTED or DROPPED."""
        return self._looks.get((digest, rung.state, rung.limit))

    def failure(self, digest: str) -> TrialRecord | None:
        return self._failed.get(digest)

    def ruled_out(self, digest: str) -> TrialRecord | None:
        """It misses a constraint by costs known without running."""
        return self._ruled_out.get(digest)

    def lost(self, digest: str) -> TrialRecord | None:
        """Its workers vanished: not known, and worth another try in a later run."""
        return self._lost.get(digest)

    def is_settled_reference(self, digest: str) -> bool:
        return digest in self._references

    @property
    def failures_of_this_run(self) -> list[TrialRecord]:
        return self._failures

    @property
    def settled_in_this_run(self) -> int:
        """Evaluations that ended in this run, well or badly."""
        return self._settled


def _counts_as_failed(record: TrialRecord) -> bool:
    return record.state == "failed" and not record.cached
