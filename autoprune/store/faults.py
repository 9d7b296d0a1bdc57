"""Database trouble in words a user can act on. Anything unknown keeps its own type and traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DatabaseError, InterfaceError, OperationalError, StatementError

from autoprune.errors import AutoPruneError

_CAUSES = (
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


class UnstorableError(AutoPruneError):
    """A value that no database should hold."""


@contextmanager
def translated(where: str, doing: str) -> Iterator[None]:
    """Turn the database's refusals into AutoPruneError('<where>: <doing> failed: <why>'). `where` hides passwords."""
    try:
        yield
    except UnstorableError as error:
        raise AutoPruneError(f"{where}: {doing} failed: {error}") from error
    except StatementError as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise AutoPruneError(f"{where}: {doing} failed: {reason}") from error


def _reason(error: StatementError) -> str | None:
    """Why, if this is a matter for the user; None for defects of ours (an integrity violation, a wrong statement)."""
    text = str(error.orig).strip()
    if isinstance(error, DatabaseError | InterfaceError):
        for mark, words in _CAUSES:
            if mark in text.lower():
                return f"{words} ({text.splitlines()[0]})"
        return text if isinstance(error, OperationalError | InterfaceError) else None
    return text if isinstance(error.orig, UnstorableError) else None
