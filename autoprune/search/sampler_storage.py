"""Where Optuna keeps its study. A SQLite file is opened so that the twenty commits of a proposal cost little."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


WAIT = 30  # seconds for another connection's lock


def storage_of(place: Any) -> BaseStorage | None:
    """Optuna's storage for an RDB URL, or the storage itself; None keeps the study in memory.

    In SQLite's write-ahead log with `synchronous = NORMAL` a power cut may take the last commits back, never damage the
    file. That is enough here: the store is the truth, and the desk tells the sampler again what it has forgotten.
    """
    if not isinstance(place, str) or not place.startswith("sqlite"):
        from optuna.storages import get_storage

        return None if place is None else get_storage(place)
    from optuna.storages import RDBStorage

    return RDBStorage(place, engine_kwargs={"connect_args": {"timeout": WAIT, "factory": _Quick}})


class _Quick(sqlite3.Connection):
    """A connection that writes ahead."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = NORMAL")
