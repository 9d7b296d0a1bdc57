"""The tables. `db/versions` holds the migrations that make them; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, DateTime, Dialect, Float, ForeignKey, Index, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

VERSION_TABLE = "autoprune_alembic_version"
"""Alembic's default name belongs to whichever of Optuna and MLflow came first; ours never collides with theirs."""


class UtcTime(TypeDecorator[datetime]):
    """An aware time. SQLite forgets the zone, so everything goes in as UTC and comes out as UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        dict[str, Any]: JSON(none_as_null=True),
        datetime: UtcTime(),
        float: Float(53),
        str: Text(),
    }


class StudyRow(Base):
    """One search. `holdout` identifies the holdout whose uses are counted."""

    __tablename__ = "autoprune_studies"

    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    digest: Mapped[str]
    spec: Mapped[dict[str, Any]]
    resolved: Mapped[dict[str, Any]]
    spec_text: Mapped[str] = mapped_column(server_default="")
    holdout: Mapped[str]
    state: Mapped[str]
    created: Mapped[datetime] = mapped_column(default=now)


class EvaluationRow(Base):
    """One measurement by its content key; shared by every study of this store."""

    __tablename__ = "autoprune_evaluations"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    request: Mapped[dict[str, Any]]
    measurement: Mapped[dict[str, Any]]
    created: Mapped[datetime] = mapped_column(default=now)


class TrialRow(Base):
    """One settled trial; the columns are the fields of `ports.TrialRecord`."""

    __tablename__ = "autoprune_trials"

    study_id: Mapped[str] = mapped_column(ForeignKey(StudyRow.id), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    origin: Mapped[str]
    name: Mapped[str]
    state: Mapped[str]
    policy: Mapped[dict[str, Any] | None]
    canonical: Mapped[str | None]
    digest: Mapped[str] = mapped_column(index=True)
    params: Mapped[dict[str, Any]]
    values: Mapped[dict[str, Any]]
    constraints: Mapped[dict[str, Any]]
    sampler_number: Mapped[int | None]
    evaluation_key: Mapped[str | None]
    cached: Mapped[bool]
    reason: Mapped[str]
    seconds: Mapped[float]
    phase: Mapped[str] = mapped_column(server_default="")
    limit: Mapped[int | None]
    share: Mapped[float] = mapped_column(server_default="1")
    arm: Mapped[str] = mapped_column(server_default="")
    lineage: Mapped[str] = mapped_column(server_default="")
    created: Mapped[datetime] = mapped_column(default=now)


class FrontRow(Base):
    """A front document. The newest of a study counts; the older ones are its history."""

    __tablename__ = "autoprune_fronts"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(ForeignKey(StudyRow.id), index=True)
    document: Mapped[dict[str, Any]]
    created: Mapped[datetime] = mapped_column(default=now)


class OutboxEntry(Base):
    """What still has to be (or was) projected elsewhere. Written in the transaction of what it announces."""

    __tablename__ = "autoprune_outbox"
    __table_args__ = (Index("ix_autoprune_outbox_waiting", "study_id", "published_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(ForeignKey(StudyRow.id))
    kind: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created: Mapped[datetime] = mapped_column(default=now)
    published_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    last_error: Mapped[str] = mapped_column(default="")


class HoldoutRow(Base):
    """How often a holdout has been looked at, over all studies of this store."""

    __tablename__ = "autoprune_holdout_uses"

    holdout: Mapped[str] = mapped_column(String(255), primary_key=True)
    uses: Mapped[int]


class LeaseRow(Base):
    """Who drives a study. Times are seconds since 1970 by the database's clock; `token` is this holding's own."""

    __tablename__ = "autoprune_leases"
    __table_args__ = (UniqueConstraint("token"),)

    study_id: Mapped[str] = mapped_column(ForeignKey(StudyRow.id), primary_key=True)
    holder: Mapped[str]
    token: Mapped[str] = mapped_column(String(64))
    host: Mapped[str]
    pid: Mapped[int]
    since: Mapped[float] = mapped_column(server_default="0")
    heartbeat: Mapped[float]
    ttl: Mapped[float]
