"""Database trouble in words a user can act on. Anything unknown keeps its own type and traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DatabaseError, InterfaceError, OperationalError, StatementError

from autoprune.errors import AutoPruneError
from autoprune.outage import Away, in_words, is_away


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
        kind = Away if is_away(str(error.orig)) else AutoPruneError
        raise kind(f"{where}: {doing} failed: {reason}") from error


def _reason(error: StatementError) -> str | None:
    """Why, if this is a matter for the user; None for defects of ours (an integrity violation, a wrong statement)."""
    text = str(error.orig).strip()
    if isinstance(error, DatabaseError | InterfaceError):
        words = in_words(text)
        if words is not None:
            return words
        return text if isinstance(error, OperationalError | InterfaceError) else None
    return text if isinstance(error.orig, UnstorableError) else None
