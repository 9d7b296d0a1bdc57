"""Databases that fail, in words a user can act on, and databases that go away and come back.

A server that answered before is waited for; one that never did is refused at once, because then the address is wrong.
Only *connecting* waits: what failed in the middle of a transaction is taken back by the database and done again by the
study's next start, which a search does by itself (`api.searching`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from autoprune.errors import AutoPruneError

T = TypeVar("T")
log = logging.getLogger(__name__)

PATIENCE = 300.0
"""Seconds for which a database may be away before a search gives up. Everything it has is stored by then."""

HURRY = 2.0
"""Seconds for what is written on the way out: who stops a search does not wait for a database."""

_hurry: ContextVar[float | None] = ContextVar("hurry", default=None)

CAUSES = (
    ("readonly", "the database is read-only; give this user write access to the file and its folder"),
    ("read-only", "the database is read-only; connect as a user that may write"),
    ("database or disk is full", "the disk (or the database's size limit) is full; free some space and start again"),
    ("no space left", "the disk is full; free some space and start again"),
    ("disk i/o error", "the disk reports an error; check the drive that holds the file"),
    ("locked", "another process holds it; wait for that process or stop it"),
    ("malformed", "the file is damaged; restore it from a backup"),
    ("not a database", "the file is not a SQLite database"),
    ("unable to open database file", "the file cannot be opened; check the path and its permissions"),
    ("no schema has been selected", "the schema in its search_path does not exist; create it first"),
    ("refused", "the server does not answer"),
    ("could not translate host name", "the server's name is unknown"),
    ("password authentication failed", "user or password is wrong"),
    ("does not exist", "it does not exist on the server"),
)

AWAY = (
    "refused",
    "timed out",
    "timeout expired",
    "starting up",
    "shutting down",
    "recovery mode",
    "terminating connection",
    "closed the connection",
    "connection reset",
    "connection is closed",
    "connection is lost",
    "connection already closed",
    "consuming input failed",
    "could not receive data",
    "could not send data",
    "broken pipe",
    "too many clients",
)


class Away(AutoPruneError):
    """A database that was there does not answer. Nothing committed is lost; the same command continues."""


def is_away(text: str) -> bool:
    """Whether a driver's words mean that the server cannot be talked to right now."""
    lower = text.lower()
    return any(mark in lower for mark in AWAY)


def in_words(text: str) -> str | None:
    """What a database's refusal means and what to do, where that is known."""
    for mark, words in CAUSES:
        if mark in text.lower():
            return f"{words} ({text.strip().splitlines()[0]})"
    return None


@contextmanager
def hurried(seconds: float = HURRY) -> Iterator[None]:
    """In this block (and thread) no database is waited for longer."""
    token = _hurry.set(seconds)
    try:
        yield
    finally:
        _hurry.reset(token)


def patience() -> float:
    """For how many seconds a database may be away here and now."""
    hurry = _hurry.get()
    return PATIENCE if hurry is None else hurry


class Patience:
    """Connects, and after the first success waits up to `patience()` seconds whenever the server is away."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._was_there = False

    def connect(self, connect: Callable[[], T]) -> T:
        """What `connect` gives, as soon as it gives something. Errors that waiting does not cure are raised at once."""
        until, said = time.monotonic() + patience(), False
        while True:
            try:
                found = connect()
            except Exception as error:
                if not (self._was_there and is_away(str(error)) and time.monotonic() < until):
                    raise
                if not said:
                    log.warning("%s is away; waiting for it up to %.0f s", self._where, patience())
                    said = True
                time.sleep(0.5)
            else:
                if said:
                    log.warning("%s is back", self._where)
                self._was_there = True
                return found
