"""A registered policy at work in a service: it follows its alias, between requests, and never falls below what worked.

The alias in the registry is the truth for what is served; this is the end of it that a server holds.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import AutoPruneError, BadInput
from autoprune.pruning.attached import Attached
from autoprune.pruning.stats import Stats
from autoprune.serving.backoff import Backoff
from autoprune.serving.status import Status
from autoprune.serving.watched import Watched
from autoprune.spec.durations import seconds

if TYPE_CHECKING:
    from types import TracebackType

    from autoprune.policy.resolved import ResolvedPolicy
    from autoprune.pruning.loaded import LoadedPolicy
    from autoprune.pruning.session import Session

log = logging.getLogger("autoprune.serving")


class PolicyHandle:
    """`handle = PolicyHandle("models:/x@champion", refresh="60s")`, then `handle.attach(model)` and serve.

    Every `refresh` a thread looks at what the reference means. A new version is loaded and held against every attached
    model; then requests that begin run under it, and those that run go on as they began. Where the registry is away or
    the version cannot be used, the last good policy stays; that is logged once, counted, and in `status()`.
    """

    def __init__(
        self,
        reference: str | Path,
        refresh: str | float | None = "60s",
        *,
        tracking_uri: str | None = None,
        **options: Any,
    ) -> None:
        """Loads the policy: there is no last good one yet, so what is wrong is raised.

        `reference`, `tracking_uri` and `options` are `load_policy`'s; files and folders are followed as well. refresh:
        `90s`, `5m`, a number of seconds, or None to look only when `refresh_now()` says so.
        Raises BadInput for a reference or policy that cannot be used, AutoPruneError where the registry fails.
        """
        try:
            self._every = None if refresh is None else seconds(refresh)
        except ValueError as error:
            raise BadInput(f"refresh: {error}") from error
        self._watched = Watched(reference, tracking_uri, options)
        self._refreshing = threading.Lock()  # one check at a time
        self._backoff = Backoff()
        self._served: dict[Session, bool] = {}
        self._done = Stats()  # of sessions that are closed
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        version = self._watched.version()
        self._policy = self._watched.load(version)
        now = datetime.now(UTC)
        self._status = Status(str(reference), version, self._policy.policy.name, since=now, last_check=now)

    # ------------------------------------------------------------ serving
    @property
    def policy(self) -> LoadedPolicy:
        """The policy in force."""
        return self._policy

    def attach(self, model: Any, *, strict: bool = False, tokenizer: Any = None, prompt: str | None = None) -> Attached:
        """Prune the model's requests under the policy in force, until `.detach()`, the end of a `with`, or `close()`.

        strict: as for `LoadedPolicy.attach`, now and for every later version. Several models may be attached; a version
        that one of them cannot run is used for none. tokenizer, prompt: also as there; give a tokenizer where a later
        version may come with a guard that looks at prompts. Raises as `LoadedPolicy.attach` does.
        """
        from autoprune.pruning.guarding import Texts
        from autoprune.pruning.session import Session

        with self._refreshing:
            if self._stop.is_set():
                raise AutoPruneError("this handle is closed; make another one")
            resolved, reasons = self._policy.checked(model, strict=strict)
            session = Session(model, resolved, Texts(tokenizer, prompt))
            session.__enter__()
            self._served[session] = strict
            self._status = replace(self._status, uncertified=(*self._status.uncertified, *reasons))
            self._warn(self._policy, reasons)
            if self._thread is None and self._every is not None:
                self._thread = threading.Thread(target=self._follow, name="autoprune-refresh", daemon=True)
                self._thread.start()
        return Attached(session, lambda: self._release(session, None))

    def status(self) -> Status:
        """How things stand, without looking at the registry."""
        served = list(self._served)
        total = _together([self._done, *(s.stats for s in served)])
        running = sum(s.running for s in served)
        return replace(
            self._status, models=len(served), running=running, served={**asdict(total), "budget": total.budget}
        )

    def close(self, timeout: float | None = 60.0) -> None:
        """Stop following, let running requests end, and restore the models; requests that begin meanwhile run unpruned.
        Raises AutoPruneError where a request runs longer than `timeout` seconds (None: however long), after all other
        models were restored; that one stays attached. Twice does nothing."""
        self._stop.set()
        end = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if end is None else max(0.0, end - time.monotonic())

        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(left())
        failed: list[AutoPruneError] = []
        for session in list(self._served):
            try:
                self._release(session, left())
            except AutoPruneError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def __enter__(self) -> PolicyHandle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _release(self, session: Session, timeout: float | None) -> None:
        """Take the policy off a model once none of its requests runs: a request that has begun on a short cache cannot
        end without it. Those that begin meanwhile run unpruned, so that it ends however many come."""
        if not session.retire(timeout):
            raise AutoPruneError(f"not detached: a request still runs after {timeout:g} s, and needs its policy to end")
        with self._refreshing:
            if self._served.pop(session, None) is None:
                return
            self._done = _together([self._done, session.stats])
            session.__exit__(None, None, None)
            self._status = replace(self._status, rejected=None)  # it may have been this model that refused

    # ------------------------------------------------------------ following
    def refresh_now(self) -> bool:
        """Look at the reference now; whether another policy is in force. Never raises for what is wrong with the
        registry or a version: `status().error` says it."""
        return self._check(patient=False)

    def _check(self, *, patient: bool) -> bool:
        """patient: leave a version alone for a while that could not be fetched (`Backoff`)."""
        with self._refreshing:
            now, before = self._status, self._policy
            self._status = replace(now, checks=now.checks + 1, last_check=datetime.now(UTC))
            version, found = None, None
            try:
                version = self._watched.version()
                if version is not None and (version == now.rejected or (patient and self._backoff.sits_out(version))):
                    self._status = replace(self._status, failures=now.failures + 1)
                    return False
                if version is None or version != now.version:
                    found = self._watched.load(version)
                    self._take(found, version)
                self._fine(version)
            except Exception as error:  # noqa: BLE001 - the service goes on, and following it
                self._failed(error, version, fetched=found is not None)
            return self._policy is not before

    def _take(self, found: LoadedPolicy, version: str | None) -> None:
        """Hold a policy against every model; only if all can run it do they."""
        if version is None and found == self._policy:
            return
        bound: list[tuple[Session, ResolvedPolicy]] = []
        reasons: list[str] = []
        for session, strict in self._served.items():
            resolved, why = found.checked(session.model, strict=strict)
            bound.append((session, resolved))
            reasons += why
        plans = [(session, session.prepare(resolved)) for session, resolved in bound]
        for session, plan in plans:
            session.swap(plan)
        before, self._policy = self._status.version, found
        self._status = replace(
            self._status,
            version=version,
            policy=found.policy.name,
            since=self._status.last_check,
            swaps=self._status.swaps + 1,
            uncertified=tuple(dict.fromkeys(reasons)),
        )
        log.info("%s: version %s is in force, after %s", self._watched.reference, version, before)
        self._warn(found, reasons)

    def _fine(self, version: str | None) -> None:
        if self._status.error:
            log.info("%s: version %s can be read again", self._watched.reference, version)
        self._status = replace(self._status, error="", rejected=None)

    def _failed(self, error: Exception, version: str | None, *, fetched: bool) -> None:
        """The last good policy stays. Said once for as long as it is the same that goes wrong. A version that was
        fetched and that a model refuses will be refused again: it is not fetched again while the models are the same.
        All else may be mended, and is tried again."""
        known = isinstance(error, AutoPruneError)
        said = str(error) if known else f"{type(error).__name__}: {error}"
        if said != self._status.error:
            log.warning(
                "%s: version %s stays in force: %s",
                self._watched.reference,
                self._status.version,
                said,
                exc_info=None if known else error,
            )
        final = version if fetched and isinstance(error, BadInput) else None
        if version is not None and final is None:
            self._backoff.failed(version)
        self._status = replace(self._status, error=said, rejected=final, failures=self._status.failures + 1)

    def _warn(self, policy: LoadedPolicy, reasons: list[str]) -> None:
        if reasons:
            log.warning("policy %r is uncertified here: %s", policy.policy.name, "; ".join(dict.fromkeys(reasons)))

    def _follow(self) -> None:
        while not self._stop.wait(self._every):
            self._check(patient=True)


def _together(parts: list[Stats]) -> Stats:
    """Stats added up."""
    return sum(parts, Stats())
