"""How a store is, without changing it: revision of its tables, what waits, who drives."""

from __future__ import annotations

from dataclasses import dataclass

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from autoprune.errors import AutoPruneError
from autoprune.store.engine import open_engine, shown
from autoprune.store.faults import translated
from autoprune.store.lease import describe, is_over
from autoprune.store.migrate import configuration
from autoprune.store.tables import VERSION_TABLE, LeaseRow, OutboxEntry, StudyRow


@dataclass(frozen=True)
class Condition:
    """`revision` and `head`: the tables' version and this program's ("" = no tables yet). `waiting`: outbox rows that
    are not published. `abandoned`: studies that run by their state and are driven by nobody. `driven`: who drives."""

    where: str
    revision: str
    head: str
    studies: int = 0
    waiting: int = 0
    abandoned: tuple[str, ...] = ()
    driven: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        return self.revision == self.head


def condition(url: str) -> Condition:
    """Raises BadInput and AutoPruneError as `open_store` does, also where a newer AutoPrune wrote the tables."""
    engine = open_engine(url)
    try:
        with translated(shown(engine.url), "looking at the store"):
            return _look(engine)
    finally:
        engine.dispose()


def _look(engine: Engine) -> Condition:
    where = shown(engine.url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        revision = context.get_current_revision() or ""
        script = ScriptDirectory.from_config(configuration(connection))
        head, known = script.get_current_head() or "", {r.revision for r in script.walk_revisions()}
    if revision and revision not in known:
        raise AutoPruneError(f"{where}: written by a newer AutoPrune (tables of revision {revision}); upgrade this one")
    if revision != head:
        return Condition(where, revision, head)
    with Session(engine) as session:
        leases = {row.study_id: row for row in session.scalars(select(LeaseRow))}
        driven = {study: describe(session, row) for study, row in leases.items() if not is_over(session, row)}
        running = session.scalars(select(StudyRow.id).where(StudyRow.state == "running")).all()
        waiting = select(func.count()).select_from(OutboxEntry).where(OutboxEntry.published_at.is_(None))
        return Condition(
            where,
            revision,
            head,
            studies=session.scalar(select(func.count()).select_from(StudyRow)) or 0,
            waiting=session.scalar(waiting) or 0,
            abandoned=tuple(study for study in running if study not in driven),
            driven=tuple(driven.values()),
        )
