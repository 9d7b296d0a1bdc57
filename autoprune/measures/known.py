"""What an earlier measurement of the same policy says of the first records: only the others are run, and both joined.

A number per record is joined record by record. Costs are computed again for all records: they take no run, unless rules
decide how much stays, and then the counts of the run are part of the measurement. A timing is always of the same first
records, whatever was measured beside it, so that it stays what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.ports import Measurement

NOTHING = Measurement({}, {}, ())


@dataclass(frozen=True)
class Known:
    """`measurement` of the first records of a split, of which `count` are asked for now."""

    measurement: Measurement
    count: int

    @classmethod
    def of(cls, measurement: Measurement | None, records: Sequence[str]) -> Known:
        """Raises ValueError where the measurement is of other records than these."""
        known = NOTHING if measurement is None else measurement
        shared = min(len(known.images), len(records))
        if tuple(known.records[:shared]) != tuple(records[:shared]):
            raise ValueError("what is said to be known is of other records")
        return cls(known, len(records))

    def start(self, labels: Sequence[str], counted: bool) -> int:
        """Behind how many records a pass for these measures begins. `counted`: what rules decided is wanted, too."""
        known = self.measurement
        there = all(label in known.samples for label in labels) and not (counted and not known.counts)
        return min(len(known.images), self.count) if there else 0

    def numbers(self, label: str, start: int) -> tuple[float, ...]:
        """Of the records before `start`."""
        return tuple(self.measurement.samples[label][:start]) if start else ()

    def counts(self) -> list[tuple[int, ...]]:
        """What each record kept after every stage, as far as that is known; empty for the others."""
        found = list(self.measurement.counts[: self.count])
        return found + [()] * (self.count - len(found))
