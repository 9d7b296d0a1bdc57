"""A study's front, hypervolume and best values, kept up record by record: a look costs what the front is, not what the
study is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from autoprune.search import pareto

if TYPE_CHECKING:
    from autoprune.ports import TrialRecord
    from autoprune.spec.goals import Objective


class Growth:
    """Of the feasible points so far, references included, baseline not (see `pareto`)."""

    def __init__(self, objectives: Sequence[Objective], records: Iterable[TrialRecord] = ()) -> None:
        self._objectives = tuple(objectives)
        self._fixed: list[TrialRecord] = []  # what the hypervolume's reference point is made of
        self._reference: pareto.Point | None = None
        self._volume: float | None = None
        self.front: list[pareto.Point] = []
        self.best: dict[str, float] = {}
        for record in records:
            self.add(record)

    def add(self, record: TrialRecord) -> None:
        if record.state != "complete":
            return
        if record.origin in ("baseline", "reference"):
            self._fixed.append(record)
            self._reference, self._volume = pareto.reference_point(self._fixed, self._objectives), None
        if record.origin == "baseline" or not pareto.feasible(record):
            return
        for objective in self._objectives:
            value, known = record.values[objective.label], self.best.get(objective.label)
            better = min if objective.direction == "minimize" else max
            self.best[objective.label] = value if known is None else better(value, known)
        point = pareto.signed(record.values, self._objectives)
        if not any(other == point or pareto.dominates(other, point) for other in self.front):
            self.front = [*(other for other in self.front if not pareto.dominates(point, other)), point]
            self._volume = None

    @property
    def hypervolume(self) -> float | None:
        """None before the baseline is measured."""
        if self._volume is None and self._reference is not None:
            self._volume = pareto.hypervolume(self.front, self._reference)
        return self._volume
