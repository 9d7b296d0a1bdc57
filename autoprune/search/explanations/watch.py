"""What should be said while the search goes on, because it may not be worth going on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.ports import Progress
from autoprune.search.explanations import beyond, constant

if TYPE_CHECKING:
    from autoprune.ports import Observer, TrialLog
    from autoprune.search.plan import StudyPlan


class Watch:
    """An observer in front of another. Says once, before the first trial, which constraints nothing can meet, and once,
    as soon as it can be known, that an objective is constant."""

    def __init__(self, observer: Observer, log: TrialLog, plan: StudyPlan) -> None:
        self._observer, self._log, self._plan = observer, log, plan
        self._began = self._looked = False

    def update(self, progress: Progress) -> None:
        self._observer.update(progress)
        if progress.phase not in ("references", "search"):
            return
        if not self._began:
            self._began = True
            self._say(progress, self._beyond())
        if not self._looked and progress.complete >= constant.ENOUGH:
            self._looked = True
            found = constant.constants(self._log.trials(), self._plan.objectives)
            self._say(progress, [constant.line(label, value, progress.complete) for label, value in found.items()])

    def _beyond(self) -> list[str]:
        baseline = next((r for r in self._log.trials() if r.origin == "baseline"), None)
        found = {} if baseline is None else beyond.beyond(self._plan.constraints, baseline.values)
        return [beyond.line(text, data) for text, data in found.items()]

    def _say(self, progress: Progress, lines: Sequence[str]) -> None:
        for line in lines:
            self._observer.update(Progress(progress.phase, message=line))
