"""Evaluations on long-lived Ray actors, each with a model of its own that it loads once."""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from autoprune.errors import AutoPruneError, BadInput
from autoprune.executors.build import EVALUATOR
from autoprune.executors.classify import failed
from autoprune.executors.mailbox import NOTICE_SECONDS, STILLBORN
from autoprune.executors.ray_cluster import Room, connect, import_ray
from autoprune.executors.ray_worker import Worker
from autoprune.policy.prefix import shared
from autoprune.ports import EvalRequest, Failed, Lost, Outcome, WorkerSpec

log = logging.getLogger(__name__)

REPORT_SECONDS = 5.0
"""How long the search's end waits for what workers say of their memory."""


@dataclass(eq=False)
class _Actor:
    """One actor and the one call it works on: first `start` (request None), then requests. `last`: the policy it was
    given last."""

    handle: Any
    call: Any
    request: EvalRequest | None = None
    deadline: float | None = None
    last: str | None = None


class RayExecutor:
    """Implements `ports.Executor`; the capacity is the number of workers.

    * A worker that dies answers `Lost` and is replaced; Ray itself restarts and retries nothing, so the caller decides.
    * An evaluation that runs longer than `evaluation_timeout` seconds (loading the model not counted) is killed and
      answers `Failed(timeout)`; the worker is replaced.
    * After an out-of-memory the worker is replaced too: device memory comes back reliably only with its process.
    * A worker that cannot build its evaluator ends the run from `wait`: BadInput as it is, anything else as
      AutoPruneError; so does `STILLBORN` workers in a row that die while loading.

    Raises BadInput if the workers do not fit into the cluster. A Ray that was running before stays running.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        workers: int | None = 1,
        gpus_per_worker: float = 0,
        cpus_per_worker: float = 1,
        build: str = EVALUATOR,
        address: str | None = None,
        evaluation_timeout: float | None = None,
    ) -> None:
        room = Room("ray", workers, gpus_per_worker, cpus_per_worker)
        room.check(spec.device)
        self._timeout = evaluation_timeout
        self._start_arguments = (spec, build, float(gpus_per_worker))
        self._queue: deque[EvalRequest] = deque()
        self._answers: list[Outcome] = []
        self._actors: list[_Actor] = []
        self._stillborn = 0
        self._closed = False
        self._owns_ray = connect(address)
        try:
            self.capacity = room.find()
            options = {
                "max_restarts": 0,
                "max_task_retries": 0,
                "num_cpus": cpus_per_worker,
                "num_gpus": gpus_per_worker,
            }
            self._remote = import_ray().remote(**options)(Worker)
            self._dispatch()
        except BaseException:
            self.close()
            raise

    def submit(self, request: EvalRequest) -> None:
        if self._closed:
            raise RuntimeError("this executor is closed")
        self._queue.append(request)
        self._dispatch()

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        until = None if timeout is None else time.monotonic() + timeout
        while not self._answers and (self._queue or any(actor.request for actor in self._actors)):
            self._dispatch()
            self._collect(until)
            if until is not None and time.monotonic() >= until:
                break
        if not self._closed:
            self._dispatch()
        answers, self._answers = self._answers, []
        return answers

    def report(self) -> list[str]:
        """Of the idle workers; one that vanished has nothing to say."""
        ray = import_ray()
        calls = [actor.handle.report.remote() for actor in self._actors if actor.call is None]
        ended, _ = ray.wait(calls, num_returns=len(calls), timeout=REPORT_SECONDS) if calls else ([], [])
        try:
            return [line for lines in ray.get(ended) for line in lines]
        except ray.exceptions.RayError:
            return []

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.clear()
        while self._actors:
            self._dismiss(self._actors[-1])
        if self._owns_ray:
            import_ray().shutdown()

    # ------------------------------------------------------------------------------------------------------- workers
    def _hire(self) -> None:
        handle = self._remote.remote()
        self._actors.append(_Actor(handle, handle.start.remote(*self._start_arguments)))
        self._notice = time.monotonic() + NOTICE_SECONDS

    def _dismiss(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        import_ray().kill(actor.handle, no_restart=True)

    def _dispatch(self) -> None:
        """Fill the places of workers that went, then give queued requests to idle ones: one each, because what waits
        here is not lost with a worker; to the one whose last policy begins most like it, because it has that kept."""
        while len(self._actors) < self.capacity:
            self._hire()
        while self._queue and (idle := [actor for actor in self._actors if actor.call is None]):
            request = self._queue[0]
            actor = max(idle, key=lambda one: shared(one.last, request.policy))
            actor.call = actor.handle.evaluate.remote(request)
            actor.request, actor.last = request, request.policy
            actor.deadline = None if self._timeout is None else time.monotonic() + self._timeout
            self._queue.popleft()

    # ------------------------------------------------------------------------------------------------------- answers
    def _collect(self, until: float | None) -> None:
        """Wait for the first call to end (or `until`, or a deadline) and take everything that has ended by then."""
        ray = import_ray()
        busy = {actor.call: actor for actor in self._actors if actor.call is not None}
        starting = [actor for actor in busy.values() if actor.request is None]
        limits = [until, self._notice if starting else None, *(actor.deadline for actor in busy.values())]
        nearest = min((limit for limit in limits if limit is not None), default=None)
        patience = None if nearest is None else max(0.0, nearest - time.monotonic())
        ray.wait(list(busy), num_returns=1, timeout=patience)
        ended, _ = ray.wait(list(busy), num_returns=len(busy), timeout=0)
        if starting and not ended and time.monotonic() >= self._notice:
            self._notice += NOTICE_SECONDS
            log.warning("%d workers have not loaded the model yet; is the Ray cluster busy otherwise?", len(starting))
        for call in ended:
            self._take(busy[call])
        for actor in list(self._actors):
            if actor.request is not None and actor.deadline is not None and time.monotonic() >= actor.deadline:
                message = f"no answer after {self._timeout:g} s; the worker was stopped"
                self._answer(actor, Failed(actor.request, "timeout", message), replace=True)

    def _take(self, actor: _Actor) -> None:
        """Read one ended call. Errors that end the run leave the executor as it was, its requests unanswered."""
        ray = import_ray()
        request = actor.request
        try:
            result = ray.get(actor.call)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, BadInput):
                raise cause from None
            if request is None:
                raise AutoPruneError(str(cause)) from error
            self._answer(actor, failed(request, cause))
        except ray.exceptions.OutOfMemoryError as error:
            self._gone(actor, error, "oom")
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            self._gone(actor, error, "lost")
        else:
            if request is None:
                actor.call, self._stillborn = None, 0
            else:
                self._answer(actor, result, replace=isinstance(result, Failed) and result.kind == "oom")

    def _gone(self, actor: _Actor, error: Exception, how: str) -> None:
        """The process ended: answer its request, or count a death while loading; then start another."""
        why = " ".join(str(error).split())
        log.warning("a worker is gone: %s", why)
        if actor.request is not None:
            gone = Failed(actor.request, "oom", why) if how == "oom" else Lost(actor.request, why)
            self._answer(actor, gone, replace=True)
            return
        self._stillborn += 1
        self._dismiss(actor)
        if self._stillborn >= STILLBORN:
            raise AutoPruneError(f"{self._stillborn} workers in a row died while loading the model; the last: {why}")

    def _answer(self, actor: _Actor, outcome: Outcome, replace: bool = False) -> None:
        self._answers.append(outcome)
        actor.call = actor.request = actor.deadline = None
        if replace:
            self._dismiss(actor)
