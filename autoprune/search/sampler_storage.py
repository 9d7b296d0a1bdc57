"""Where Optuna keeps its study. A SQLite file is opened so that the twenty commits of a proposal cost little."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from autoprune.errors import AutoPruneError, LeaseLost
from autoprune.outage import Away, in_words, is_away

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

log = logging.getLogger(__name__)

WAIT = 30  # seconds for another connection's lock


def storage_of(place: Any) -> BaseStorage | None:
    """Optuna's storage for an RDB URL, or the storage itself; None keeps the study in memory.

    In SQLite's write-ahead log with `synchronous = NORMAL` a power cut may take the last commits back, never damage the
    file. That is enough here: the store is the truth, and the desk tells the sampler again what it has forgotten.
    """
    if not isinstance(place, str):
        from optuna.storages import get_storage

        return None if place is None else get_storage(place)
    from optuna.storages import RDBStorage

    if not place.startswith("sqlite"):
        return RDBStorage(place, engine_kwargs={"pool_pre_ping": True})  # the server may have been started again

    return RDBStorage(place, engine_kwargs={"connect_args": {"timeout": WAIT, "factory": _Quick}})


@contextmanager
def translated() -> Iterator[None]:
    """Turn failures of Optuna's database into AutoPruneError, one that went away into Away, and a trial that somebody
    else has ended into LeaseLost: only the study's driver ends trials."""
    try:
        yield
    except Exception as error:
        if "optuna.UpdateFinishedTrialError" in _names(error):
            raise LeaseLost(
                f"another driver has ended a trial of this one; it drives the study now ({error})"
            ) from error
        reason = _reason(error)
        if reason is None:
            raise
        kind = Away if is_away(reason) else AutoPruneError
        said = in_words(reason) or reason.strip().splitlines()[0]
        raise kind(f"the sampler's memory (Optuna's database) failed: {said}; the same command continues") from error


@contextmanager
def forgiven(doing: str) -> Iterator[None]:
    """For what the next start does anyway: trouble is logged, and hides no other error."""
    try:
        with translated():
            yield
    except AutoPruneError as error:
        log.warning("%s: %s", doing, error)


def _reason(error: BaseException | None) -> str | None:
    """The driver's words, if this is the database's doing. Told by names: SQLAlchemy is Optuna's business here."""
    while error is not None:
        if _names(error) & {"sqlalchemy.OperationalError", "sqlalchemy.InterfaceError"}:
            return str(getattr(error, "orig", error))
        error = error.__cause__
    return None


def _names(error: BaseException) -> set[str]:
    return {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}


class _Quick(sqlite3.Connection):
    """A connection that writes ahead."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = NORMAL")
