"""Outcomes of an evaluation that are not numbers."""

from __future__ import annotations

from autoprune.errors import AutoPruneError


class NonFinite(AutoPruneError):
    """A measure came out as NaN or infinite. `record` is the first record where, or empty for a cost."""

    def __init__(self, measure: str, record: str = "") -> None:
        self.measure = measure
        self.record = record
        where = f" for record {record!r}" if record else ""
        super().__init__(f"{measure} is not a finite number{where}")

    def __reduce__(self) -> tuple[type[NonFinite], tuple[str, str]]:
        return NonFinite, (self.measure, self.record)
