"""Evaluations that are needed whatever the sampler thinks: the baseline, and the finalists on the holdout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from autoprune.errors import AutoPruneError
from autoprune.policy.prefix import prefix_key
from autoprune.ports import Measured, Measurement
from autoprune.search.dispatch import run_all
from autoprune.search.errors import Interrupted
from autoprune.search.settle import Unusable, usable

if TYPE_CHECKING:
    from autoprune.ports import EvalRequest, Executor, Outcome, Split, TrialLog
    from autoprune.search.plan import StudyPlan

Result = Measurement | Unusable


class Bench:
    """Measures requests through the executor, each at most once: what the log has is not run again.

    `holdout_limit`: certify on only the first so many records of the holdout (None = all).
    """

    def __init__(self, plan: StudyPlan, executor: Executor, log: TrialLog, stop: Callable[[], bool]) -> None:
        self._plan = plan
        self._executor = executor
        self._log = log
        self._stop = stop
        self.holdout_limit: int | None = None

    def _request(
        self,
        canonical: str | None,
        split: Split,
        limit: int | None = None,
        measures: tuple[str, ...] | None = None,
    ) -> EvalRequest:
        limit = self.holdout_limit if split == "holdout" else limit
        return self._plan.request(canonical, split, limit=limit, measures=measures)

    def baseline(self, split: Split, limit: int | None = None, measures: tuple[str, ...] | None = None) -> Measurement:
        """The unpruned model, on the first `limit` records (None = all), with the plan's measures or others. Without
        its numbers there is nothing to compare with, so a failure ends the study. What it does on part of the records
        is known where all of them are measured."""
        request = self._request(None, split, limit, measures)
        if request.limit is not None:
            request = replace(request, known=self._log.find(self._plan.context.key(self._plan.request(None, split))))
        result = self._measure([request], None, done=lambda _: None)[0]
        if isinstance(result, Unusable):
            raise AutoPruneError(f"the unpruned baseline could not be measured on the {split} split ({result.reason})")
        return result

    def is_stored(self, canonical: str, split: Split) -> bool:
        return self._log.find(self._plan.context.key(self._request(canonical, split))) is not None

    def policies(
        self, canonicals: Sequence[str], split: Split, baseline: Measurement, done: Callable[[int], None]
    ) -> list[Result]:
        """Measure policies, those that begin alike one after the other; `done(count)` reports progress. The results are
        in the order of the policies; a failing one has its reason instead of numbers."""
        requests = [self._request(c, split) for c in canonicals]
        return self._measure(requests, baseline, done)

    def _measure(
        self,
        requests: list[EvalRequest],
        baseline: Measurement | None,
        done: Callable[[int], None],
    ) -> list[Result]:
        plan, log = self._plan, self._log
        keys = [plan.context.key(r) for r in requests]
        results: dict[int, Result] = {}
        for index, (request, key) in enumerate(zip(requests, keys, strict=True)):
            stored = log.find(key)
            if stored is not None:
                results[index] = usable(Measured(request, stored), request.measures, baseline)
        todo = [i for i in range(len(requests)) if i not in results]
        todo.sort(key=lambda i: prefix_key(requests[i].policy or "{}"))

        def receive(position: int, outcome: Outcome) -> None:
            index = todo[position]
            results[index] = result = usable(outcome, requests[index].measures, baseline)
            if isinstance(result, Measurement):
                log.remember(keys[index], replace(requests[index], known=None), result)
            done(len(results))

        pending = [requests[i] for i in todo]
        if not run_all(self._executor, pending, plan.max_retries, self._stop, receive):
            raise Interrupted("interrupted; the same command continues this study")
        return [results[i] for i in range(len(requests))]
