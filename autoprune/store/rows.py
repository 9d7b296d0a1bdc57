"""Between the records of `ports` and rows, and the two statements SQLAlchemy spells per dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from sqlalchemy import literal
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from autoprune.ports import TrialRecord
from autoprune.store.tables import Base, HoldoutRow, OutboxEntry, TrialRow
from autoprune.store.values import OutboxKind, OutboxRow

_FIELDS = tuple(f.name for f in fields(TrialRecord))


def trial_columns(record: TrialRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _FIELDS}


def trial_record(row: TrialRow) -> TrialRecord:
    return TrialRecord(**{name: getattr(row, name) for name in _FIELDS})


def outbox_row(row: OutboxEntry) -> OutboxRow:
    return OutboxRow(
        id=row.id,
        study=row.study_id,
        kind=cast(OutboxKind, row.kind),
        payload=row.payload,
        created=row.created,
        published=row.published_at,
        attempts=row.attempts,
        last_error=row.last_error,
    )


def insert_once(session: Session, table: type[Base], values: Mapping[str, Any]) -> bool:
    """INSERT unless the primary key is taken (also by a transaction that commits first); True if it went in."""
    insert = (postgresql if _postgres(session) else sqlite).insert(table)
    written = insert.values(dict(values)).on_conflict_do_nothing().returning(literal(1))
    return session.execute(written).first() is not None


def count_use(session: Session, holdout: str) -> int:
    """Add one to a holdout's uses; the new count."""
    insert = (postgresql if _postgres(session) else sqlite).insert(HoldoutRow).values(holdout=holdout, uses=1)
    upsert = insert.on_conflict_do_update(index_elements=[HoldoutRow.holdout], set_={"uses": HoldoutRow.uses + 1})
    return int(session.execute(upsert.returning(HoldoutRow.uses)).scalar_one())


def uses_of(session: Session, holdout: str) -> int:
    """A holdout's uses so far."""
    row = session.get(HoldoutRow, holdout)
    return 0 if row is None else row.uses


def _postgres(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"
