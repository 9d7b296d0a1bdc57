"""One request: the policy it began with, from its image features to its last token. Imports no torch.

A request is a call of `generate()`, or a forward outside one. Its policy is chosen when it begins, so that neither a
swap nor the end of a `using` in another thread reaches into it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    from autoprune.pruning.loaded import LoadedPolicy
    from autoprune.pruning.plan import Plan
    from autoprune.pruning.record import Budget, Run


class _Attached:
    """What is attached, as against None, which is no pruning."""

    def __repr__(self) -> str:
        return "ATTACHED"


ATTACHED: Final = _Attached()
"""The policy that is attached to the model."""


@dataclass(eq=False)
class Using:
    """What `using` says about the requests of its context. `policy`: a LoadedPolicy, a ResolvedPolicy, None for no
    pruning, or ATTACHED; for one `session` only, where that is set. `prompt`: what its requests say, where a guard
    wants to know."""

    policy: Any
    session: Any = None
    prompt: str | Sequence[str] | None = None
    _run: Run | None = field(default=None, repr=False)

    @property
    def run(self) -> Run:
        """The record of this context's last prefill. Raises AutoPruneError before the first."""
        if self._run is None:
            raise AutoPruneError("no request has run in this context yet")
        return self._run

    def budget(self) -> Budget:
        """Budget of this context's last prefill, as counted on the run."""
        return self.run.budget()

    def ran(self, run: Run) -> None:
        self._run = run


_USING: ContextVar[Using | None] = ContextVar("autoprune_using", default=None)


@contextmanager
def using(
    policy: LoadedPolicy | _Attached | None = ATTACHED, *, prompt: str | Sequence[str] | None = None
) -> Iterator[Using]:
    """Requests that begin in this context run under `policy` (None: no pruning) instead of the attached one.

    It holds for the current context, as `contextvars` has it: for this thread or asyncio task and what runs in a copy
    of its context (`asyncio.to_thread`), not for other requests. A new `Thread` begins with an empty context: start it
    as `Thread(target=contextvars.copy_context().run, args=(model.generate,), kwargs=…)`. Of what is given, `run` and
    `budget()` are of this context's own last request, whatever runs beside it.

    prompt: the text of the requests, or of each sample of a batch, for a guard's rules about prompts; otherwise the
    tokenizer or the prompt says it that the policy was attached with.

    A policy that the model cannot carry out is refused when a request begins. Raises AutoPruneError where no model of
    this process has a policy attached: nothing would be pruned, without a word.
    """
    session = sys.modules.get("autoprune.pruning.session")
    if session is None or not session.anything_attached():
        raise AutoPruneError("`using` chooses among policies of models that have one attached: attach a policy first")
    with chosen(Using(policy, prompt=prompt)) as used:
        yield used


@contextmanager
def chosen(used: Using) -> Iterator[Using]:
    """Within it `used` is what the context says."""
    token = _USING.set(used)
    try:
        yield used
    finally:
        _USING.reset(token)


def said(session: Any) -> Using | None:
    """What the current context says about requests of a session's model."""
    used = _USING.get()
    return used if used is not None and used.session in (None, session) else None


@dataclass(eq=False)
class Request:
    """A running request: the plan it began with, and the context's `used`, which is told what it did."""

    plan: Plan
    used: Using | None = None


class Requests:
    """The running requests of one session. Each belongs to the thread that serves it."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._changed = threading.Condition()
        self._running = 0
        self._closings = 0

    @property
    def current(self) -> Request | None:
        """The request that the current thread serves."""
        return getattr(self._local, "request", None)

    @property
    def running(self) -> int:
        return self._running

    @property
    def passing(self) -> bool:
        """Whether the current thread's request is left alone: it began while the policy was being taken off."""
        return getattr(self._local, "passing", False)

    def begin(self, begun: Callable[[], Request]) -> Callable[[], None]:
        """The current thread begins a request; what is returned ends it. Within another one of this thread it is part
        of that."""
        if self.current is not None or self.passing:
            return lambda: None
        with self._changed:  # either `close` sees it, or it sees `close`
            if self._closings:
                return self.leave_alone()
            self._running += 1
        try:
            self._local.request = begun()
        except BaseException:
            self._end()
            raise
        return self._end

    def leave_alone(self) -> Callable[[], None]:
        """Nothing is done to the current thread's request until what is returned is called."""
        self._local.passing = True
        return self._pass

    def _pass(self) -> None:
        self._local.passing = False

    def _end(self) -> None:
        self._local.request = None
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def close(self, timeout: float | None) -> bool:
        """Leave requests alone that begin from now on, and wait for those that run, at most `timeout` seconds; whether
        none does. If one does, all is as before."""
        with self._changed:
            self._closings += 1
            done = self._changed.wait_for(lambda: self._running == 0, timeout)
            if not done:
                self._closings -= 1
            return done

    def open(self) -> None:
        """Requests count again, after `close`."""
        with self._changed:
            self._closings = 0
