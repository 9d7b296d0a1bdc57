"""Between the thread that searches and the one in which Ray Tune runs: requests there, outcomes back."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoprune.errors import AutoPruneError
from autoprune.ports import EvalRequest, Failed, Lost, Measured, Outcome

log = logging.getLogger(__name__)

STILLBORN = 2
"""So many workers in a row may die while they load the model; then loading itself is at fault."""

NOTICE_SECONDS = 60.0
"""How often to say that workers have not started: Ray waits in silence while others hold the cluster."""

_BREATH = 0.02
"""Seconds that Tune's loop waits for the search's next request while other workers are busy."""


@dataclass
class Flight:
    """A trial of Tune on the worker of that number: for a request, or (None) for its model to be loaded. `answer` may
    be what ends the run."""

    request: EvalRequest | None
    slot: int
    began: bool = False
    deadline: float | None = None
    answer: Measured | Failed | Exception | None = None
    stopped: bool = False


class Mailbox:
    """The search's thread calls `put`, `take` and `close`, Tune's calls the rest. Workers have numbers (slots); what
    Ray needs to `kill` one is kept from when it has begun until it is gone.

    The rules are those of `RayExecutor`: who dies answers `Lost`, who runs longer than `timeout` seconds is killed and
    answers `Failed(timeout)`. A request is only given to a worker that has its model: where there is no room any more,
    because a machine is gone, none waits for it.
    """

    def __init__(self, workers: int, timeout: float | None, kill: Callable[[Any], None]) -> None:
        self._workers: list[Any] = [None] * workers
        self._timeout, self._kill = timeout, kill
        self._changed = threading.Condition()
        self._queue: deque[EvalRequest] = deque()
        self._flights: dict[str, Flight] = {}
        self._answers: list[Outcome] = []
        self._error: Exception | None = None
        self._stillborn = 0
        self._notice = time.monotonic() + NOTICE_SECONDS
        self.closed = False

    def __reduce__(self) -> tuple[Callable[[], Mailbox], tuple[()]]:
        """Tune writes down what it was given, to restore it some day; what it would then find is closed."""
        return _closed, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Mailbox:
        return self

    # ---------------------------------------------------------------------------------------------- the search's thread
    def put(self, request: EvalRequest) -> None:
        with self._changed:
            self._queue.append(request)
            self._changed.notify_all()

    def take(self, timeout: float | None) -> list[Outcome]:
        """Wait for an outcome; raise what ended the run."""
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._answers and self._error is None and (self._queue or self._working()):
                deadlines = [f.deadline for f in self._flights.values() if not f.stopped]
                limits = [limit for limit in (until, self._notice, *deadlines) if limit is not None]
                self._changed.wait(max(0.0, min(limits) - time.monotonic()))
                self._look_at_the_clock()
                if until is not None and time.monotonic() >= until:
                    break
            answers, self._answers = self._answers, []
            if not answers and self._error is not None:
                raise self._error  # whoever asks again hears it again: nothing more will come
            return answers

    def close(self) -> None:
        """Drop everything; Tune's thread ends by itself."""
        with self._changed:
            self.closed = True
            self._queue.clear()
            self._answers.clear()
            for worker in filter(None, self._workers):
                self._kill(worker)
            self._changed.notify_all()

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        for flight in self._flights.values():
            if flight.deadline is not None and now >= flight.deadline and flight.answer is None:
                self._stop(flight)
        if now >= self._notice:
            self._notice = now + NOTICE_SECONDS
            if waiting := len(self._flights) - self._working():
                log.warning("%d workers have not loaded the model yet; is the Ray cluster busy otherwise?", waiting)

    def _working(self) -> int:
        return sum(flight.request is not None for flight in self._flights.values())

    def _stop(self, flight: Flight) -> None:
        if not flight.stopped:
            flight.stopped = True
            self._kill(self._workers[flight.slot])

    # --------------------------------------------------------------------------------------------------- Tune's thread
    def next(self, trial: str) -> Flight | None:
        """What this new trial is for: loading a model where one is missing, else the next request. Without one: waits
        where nothing else is going on, else None soon."""
        with self._changed:
            taken = {flight.slot for flight in self._flights.values()}
            idle = [slot for slot in range(len(self._workers)) if slot not in taken]
            missing = [slot for slot in idle if self._workers[slot] is None]
            if not missing and not self._flights:
                self._changed.wait_for(lambda: self._queue or self.closed)
            elif not missing and not self._queue:
                self._changed.wait(_BREATH)
            if self.closed or not idle or not (missing or self._queue):
                return None
            flight = Flight(None, missing[0]) if missing else Flight(self._queue.popleft(), idle[0])
            self._flights[trial] = flight
            return flight

    def began(self, trial: str, worker: Any) -> None:
        """The trial's worker has its model and starts on the request."""
        with self._changed:
            flight = self._flights[trial]
            flight.began, self._stillborn = True, 0
            self._workers[flight.slot] = worker
            if self._timeout is not None and flight.request is not None:
                flight.deadline = time.monotonic() + self._timeout
            self._changed.notify_all()

    def answered(self, trial: str, answer: Measured | Failed | Exception | None) -> None:
        """None: the model is loaded."""
        with self._changed:
            self._flights[trial].answer = answer

    def ended(self, trial: str, gone: str = "") -> None:
        """The trial is over: with its answer, or because its worker is `gone`, for the reason given, or both."""
        with self._changed:
            flight = self._flights.pop(trial)
            if gone:
                self._workers[flight.slot] = None
            if isinstance(flight.answer, Exception):
                self._error = flight.answer
            elif flight.answer is not None:
                self._answers.append(flight.answer)
            elif gone and not self.closed:
                log.warning("a worker is gone: %s", gone)
                self._gone(flight, gone)
            self._changed.notify_all()

    def _gone(self, flight: Flight, why: str) -> None:
        if flight.request is None:
            self._stillborn += 1
            if self._stillborn >= STILLBORN:
                self.fail(AutoPruneError(f"{STILLBORN} workers in a row died while loading the model; the last: {why}"))
        elif flight.stopped:
            message = f"no answer after {self._timeout:g} s; the worker was stopped"
            self._answers.append(Failed(flight.request, "timeout", message))
        elif not flight.began:  # it had died idle, and nobody noticed
            self._queue.appendleft(flight.request)
        else:
            oom = "OutOfMemoryError" in why  # the class that Ray's memory monitor kills with
            self._answers.append(Failed(flight.request, "oom", why) if oom else Lost(flight.request, why))

    def fail(self, error: Exception) -> None:
        """Nothing more will come."""
        with self._changed:
            self._error = error
            self._changed.notify_all()


def _closed() -> Mailbox:
    mailbox = Mailbox(1, None, lambda worker: None)
    mailbox.close()
    return mailbox
