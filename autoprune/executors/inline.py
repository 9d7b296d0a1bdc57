"""Evaluations in this process, one after the other: simple, debuggable, bit-reproducible with a seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from autoprune.executors.build import EVALUATOR, build_evaluator
from autoprune.executors.classify import attempt, free_device_memory
from autoprune.executors.quiet import demand_quiet
from autoprune.ports import EvalRequest, Evaluator, Failed, Outcome, Reporting, WorkerSpec


class InlineExecutor:
    """Implements `ports.Executor` with a capacity of 1. The evaluator is built by the first `wait` that has work.

    `wait` does the evaluating, so its timeout cannot cut one short; a worker cannot be lost. Errors of building and
    BadInput of an evaluation are raised from `wait`. After an interrupt the request is still queued.
    """

    capacity = 1

    def __init__(self, spec: WorkerSpec, build: str = EVALUATOR) -> None:
        self._spec, self._build = spec, build
        self._queue: deque[EvalRequest] = deque()
        self._evaluator: Evaluator | None = None
        self._closed = False

    def submit(self, request: EvalRequest) -> None:
        if self._closed:
            raise RuntimeError("this executor is closed")
        self._queue.append(request)

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        if not self._queue:
            return []
        if self._evaluator is None:
            demand_quiet(self._spec)
            self._evaluator = build_evaluator(self._build, self._spec)
        outcome = attempt(self._evaluator, self._queue[0])
        self._queue.popleft()
        if isinstance(outcome, Failed) and outcome.kind == "oom":
            free_device_memory()
        return [outcome]

    def report(self) -> Sequence[str]:
        return self._evaluator.report() if isinstance(self._evaluator, Reporting) else ()

    def close(self) -> None:
        self._queue.clear()
        self._evaluator = None
        self._closed = True
