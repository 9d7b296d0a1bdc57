"""One driver per study: a lease row with a heartbeat."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from sqlalchemy import CursorResult, Engine, delete, text, update
from sqlalchemy.orm import Session

from autoprune.errors import AutoPruneError, LeaseLost
from autoprune.outage import hurried
from autoprune.redact import redacted
from autoprune.store.engine import shown, writing
from autoprune.store.faults import translated
from autoprune.store.rows import insert_once
from autoprune.store.tables import LeaseRow

log = logging.getLogger(__name__)

BOOT = Path("/proc/sys/kernel/random/boot_id")


class Lease:
    """Holds a study while its block runs; a daemon thread beats every third of `ttl` seconds.

    Entering raises AutoPruneError, naming holder and age, while another driver is alive. A lease is free again when
    its heart has not beaten for its own ttl, or at once when its process is known to be gone from this machine.
    """

    def __init__(self, engine: Engine, study: str, holder: str, ttl: float) -> None:
        if ttl <= 0:
            raise ValueError(f"a lease's ttl is a number of seconds above 0, not {ttl}")
        self.study, self.holder, self.ttl = study, holder, ttl
        self.token = uuid.uuid4().hex
        self._where = shown(engine.url)
        self._engine = writing(engine)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease {study}", daemon=True)

    def __enter__(self) -> Lease:
        with translated(self._where, "taking the study's lease"), Session(self._engine) as session, session.begin():
            self._take(session)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        try:
            with hurried(), translated(self._where, "releasing the study's lease"), Session(self._engine) as session:
                session.execute(delete(LeaseRow).where(LeaseRow.token == self.token))
                session.commit()
        except AutoPruneError as trouble:  # it expires by itself; the block's own error matters more
            log.warning("%s", trouble)

    def is_fresh(self, session: Session) -> bool:
        """Whether it is still ours for half its ttl at least (a look that writes nothing)."""
        row = session.get(LeaseRow, self.study)
        return row is not None and row.token == self.token and _clock(session) - row.heartbeat < self.ttl / 2

    def renew(self, session: Session) -> None:
        """Beat inside the caller's transaction; LeaseLost if somebody else took the study over meanwhile."""
        mine = update(LeaseRow).where(LeaseRow.token == self.token)
        done = session.execute(mine.values(heartbeat=_clock(session)), execution_options={"synchronize_session": False})
        if cast("CursorResult[Any]", done).rowcount == 0:
            other = session.get(LeaseRow, self.study)
            now = f"; '{other.holder}' drives it now" if other else ""
            raise LeaseLost(
                f"study {self.study}: the lease of '{self.holder}' expired (no heartbeat for {self.ttl:g} s){now}"
            )

    def _take(self, session: Session) -> None:
        now = _clock(session)
        mine = {
            "study_id": self.study,
            "holder": self.holder,
            "token": self.token,
            "host": _machine(),
            "pid": os.getpid(),
            "since": now,
            "heartbeat": now,
            "ttl": self.ttl,
        }
        if insert_once(session, LeaseRow, mine):
            return
        row = session.get(LeaseRow, self.study, with_for_update=True)
        if row is not None and not _over(row, now):
            raise AutoPruneError(
                f"{describe(session, row)}; "
                f"wait for it or stop it (the study is free {row.ttl:g} s after the last heartbeat)"
            )
        session.execute(delete(LeaseRow).where(LeaseRow.study_id == self.study))
        if not insert_once(session, LeaseRow, mine):
            raise AutoPruneError(f"study {self.study}: another driver took its lease in this moment; try again")

    def _beat(self) -> None:
        while not self._stop.wait(self.ttl / 3):
            try:
                # Without patience: leaving waits for this thread, and the next beat is another try.
                with hurried(0), translated(self._where, "the lease's heartbeat"), Session(self._engine) as session:
                    self.renew(session)
                    session.commit()
            except Exception as trouble:  # noqa: BLE001  (a heart that stops costs the study; the driver meets it itself)
                log.warning("study %s: the lease's heartbeat failed: %s", self.study, redacted(str(trouble)))


def describe(session: Session, row: LeaseRow) -> str:
    """Who drives the study, since when, and when last heard of."""
    age = max(0.0, _clock(session) - row.heartbeat)
    since = f"since {_when(row.since)}, last heartbeat {age:.0f} s ago"
    return f"study {row.study_id} is being driven by '{row.holder}' {since}"


def is_over(session: Session, row: LeaseRow) -> bool:
    """Whether the holder may be taken for dead."""
    return _over(row, _clock(session))


def _when(since: float) -> str:
    return datetime.fromtimestamp(since, UTC).isoformat(sep=" ", timespec="seconds")


def _over(row: LeaseRow, now: float) -> bool:
    return now - row.heartbeat > row.ttl or (row.host == _machine() and not _alive(row.pid))


def _clock(session: Session) -> float:
    """Seconds since 1970; on a server by its own clock, because two drivers' clocks may differ by more than a ttl."""
    if session.get_bind().dialect.name == "postgresql":
        return float(session.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return time.time()


def _machine() -> str:
    """Host name and, on Linux, which boot of which kernel and process namespace: only there does a process number mean
    the same process. Two hosts may have one name, and the first namespace has one number on all of them."""
    namespace = Path("/proc/self/ns/pid")
    if not (namespace.is_symlink() and BOOT.is_file()):
        return socket.gethostname()
    return f"{socket.gethostname()} {BOOT.read_text().strip()} {namespace.readlink()}"


def _alive(pid: int) -> bool:
    if os.name != "posix":  # elsewhere there is no harmless question; the lease then simply runs out
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
