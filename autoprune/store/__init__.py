"""The study's memory: SQLAlchemy tables and the repository over them. The truth for measurements.

Importing this package imports no SQLAlchemy; `open_store` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.store.values import OutboxKind, OutboxRow, StudyState, StudySummary

if TYPE_CHECKING:
    from autoprune.store.store import Store

__all__ = ["OutboxKind", "OutboxRow", "StudyState", "StudySummary", "open_store"]


def open_store(url: str) -> Store:
    """Open (and create or migrate) the store behind a database URL.

    `sqlite:///path/autoprune.db` makes missing folders; `postgresql+psycopg://…` works the same.
    Raises BadInput for a URL that cannot be a store (unknown dialect, not a database, another program's tables) and
    AutoPruneError where the database cannot be used (unreachable, read-only, full, written by a newer AutoPrune).
    """
    from autoprune.store.store import Store

    return Store.open(url)
