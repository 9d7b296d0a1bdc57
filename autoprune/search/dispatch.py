"""Requests out, outcomes back: what died or hung is tried again, and arrival order made repeatable."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from autoprune.ports import EvalRequest, Failed, Lost

if TYPE_CHECKING:
    from autoprune.ports import Executor, Outcome

Owner = TypeVar("Owner")
_names = itertools.count()  # a late answer must not be taken for another dispatcher's
log = logging.getLogger(__name__)


@dataclass
class _Job(Generic[Owner]):
    order: int
    request: EvalRequest
    owner: Owner
    came_to_nothing: list[str] = field(default_factory=list)
    outcome: Outcome | None = None


class Dispatcher(Generic[Owner]):
    """Keeps requests in flight at an executor, each with an owner that gets the final outcome.

    A request whose worker died (`Lost`) or was killed for hanging (`timeout`) is submitted again, so often as
    `max_retries` says; the outcome that is final in the end has the `lineage`. With `synchronous`, outcomes are held
    until all in flight have one and are given in the order of submission. How long an evaluation may take is the
    executor's business: only there is it known when it began, and only there can it be stopped.
    """

    def __init__(self, executor: Executor, max_retries: int, synchronous: bool = False) -> None:
        self._executor = executor
        self._max_retries = max_retries
        self._synchronous = synchronous
        self._jobs: dict[str, _Job[Owner]] = {}
        self._submitted = 0
        self._name = next(_names)

    @property
    def has_room(self) -> bool:
        """Whether another request can usefully be submitted now."""
        held = self._synchronous and any(job.outcome is not None for job in self._jobs.values())
        return not held and len(self._jobs) < max(1, self._executor.capacity)

    @property
    def running(self) -> int:
        return len(self._jobs)

    def submit(self, request: EvalRequest, owner: Owner) -> None:
        job = _Job(self._submitted, request, owner)
        self._submitted += 1
        self._send(job)

    def _send(self, job: _Job[Owner]) -> None:
        tag = f"{self._name}.{job.order}.{len(job.came_to_nothing)}"
        job.request = replace(job.request, tag=tag)
        self._jobs[tag] = job
        self._executor.submit(job.request)

    def collect(self, patience: float = 0.5) -> list[tuple[Owner, Outcome]]:
        """Wait up to `patience` seconds for something to end; the owners whose outcome is final."""
        if not self._jobs:
            return []
        started = time.monotonic()
        outcomes = self._executor.wait(patience)
        for outcome in outcomes:
            self._receive(outcome)
        if not outcomes:
            time.sleep(max(0.0, min(0.05, patience - (time.monotonic() - started))))
        return self._final()

    def _receive(self, outcome: Outcome) -> None:
        job = self._jobs.get(outcome.request.tag)
        if job is None or job.outcome is not None:
            return  # not ours, or answered before
        why = _came_to_nothing(outcome)
        if why and len(job.came_to_nothing) < self._max_retries:
            del self._jobs[outcome.request.tag]
            job.came_to_nothing.append(why)
            log.warning("attempt %d at an evaluation came to nothing, trying again: %s", len(job.came_to_nothing), why)
            self._send(job)
            return
        job.outcome = replace(outcome, lineage="\n".join(job.came_to_nothing))

    def _final(self) -> list[tuple[Owner, Outcome]]:
        done = {tag: job.outcome for tag, job in self._jobs.items() if job.outcome is not None}
        if not done or (self._synchronous and len(done) < len(self._jobs)):
            return []
        jobs = [(self._jobs.pop(tag), outcome) for tag, outcome in done.items()]
        if self._synchronous:
            jobs.sort(key=lambda pair: pair[0].order)
        return [(job.owner, outcome) for job, outcome in jobs]


def _came_to_nothing(outcome: Outcome) -> str:
    """What is worth another attempt, in one line; '' for an answer. Memory and bugs would fail the same way again."""
    if isinstance(outcome, Lost):
        return f"lost: {' '.join(outcome.message.split())}"
    if isinstance(outcome, Failed) and outcome.kind == "timeout":
        return f"timeout: {' '.join(outcome.message.split())}"
    return ""


def never() -> bool:
    """The default stop signal: none."""
    return False


def run_all(
    executor: Executor,
    requests: list[EvalRequest],
    max_retries: int,
    stop: Callable[[], bool],
    receive: Callable[[int, Outcome], None],
) -> bool:
    """Run a known list of requests, `receive(index, outcome)` as each ends. False if `stop` ended it early."""
    dispatcher: Dispatcher[int] = Dispatcher(executor, max_retries)
    waiting = list(enumerate(requests))
    while waiting or dispatcher.running:
        if stop():
            return False
        while waiting and dispatcher.has_room:
            index, request = waiting.pop(0)
            dispatcher.submit(request, index)
        for index, outcome in dispatcher.collect():
            receive(index, outcome)
    return True
