"""One study's memory: implements `ports.TrialLog`, and keeps the outbox and the lease."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, cast, get_args

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from autoprune.errors import AutoPruneError
from autoprune.outage import Away
from autoprune.ports import EvalRequest, Measurement, Split, TrialRecord
from autoprune.store.engine import shown, to_json, writing
from autoprune.store.faults import translated
from autoprune.store.lease import Lease
from autoprune.store.rows import count_use, insert_once, outbox_row, trial_columns, trial_record, uses_of
from autoprune.store.tables import EvaluationRow, FrontRow, OutboxEntry, StudyRow, TrialRow, now
from autoprune.store.values import OutboxKind, OutboxRow, StudyState


class StudyLog:
    """Every method is one transaction, durable when it returns. Safe to use from several threads.

    While this log holds the study's lease, a write that changes the study also checks that the lease is still ours,
    in the same transaction: a driver that slept through its ttl cannot write beside its successor.
    """

    def __init__(self, engine: Engine, study_id: str) -> None:
        self.study_id = study_id
        self._where = shown(engine.url)
        self._engine = engine
        self._writes = writing(engine)
        self._lease: Lease | None = None

    # ------------------------------------------------------------------------------------------------------- TrialLog
    def find(self, key: str) -> Measurement | None:
        with self._reading("looking up an evaluation") as session:
            row = session.get(EvaluationRow, key)
            return None if row is None else Measurement.from_json(row.measurement)

    def remember(self, key: str, request: EvalRequest, measurement: Measurement) -> None:
        """The first measurement under a key stays. Refuses numbers that are not finite (AutoPruneError). Not fenced: it
        belongs to no study, and is true whoever measured it. Written once more where the database went away meanwhile:
        nothing else holds what was paid for."""
        values = {"key": key, "request": asdict(request), "measurement": measurement.to_json()}
        try:
            self._insert_evaluation(values)
        except Away:  # in the middle; connecting again waits for it
            self._insert_evaluation(values)

    def _insert_evaluation(self, values: Mapping[str, Any]) -> None:
        with self._writing("storing an evaluation", fenced=False) as session:
            insert_once(session, EvaluationRow, values)

    def measured(self, policy: str | None, split: Split) -> list[tuple[str, EvalRequest, Measurement]]:
        """Every evaluation of a canonical policy on a split, by any study, under any context: key, request, numbers."""
        asked = EvaluationRow.request["policy"].as_string()
        with self._reading("looking up evaluations") as session:
            query = select(EvaluationRow).where(
                asked.is_(None) if policy is None else asked == policy,
                EvaluationRow.request["split"].as_string() == split,
            )
            rows = session.scalars(query.order_by(EvaluationRow.created, EvaluationRow.key)).all()
        return [(row.key, _request(row.request), Measurement.from_json(row.measurement)) for row in rows]

    def settle(self, record: TrialRecord) -> None:
        """Again with the same number: nothing happens if it is the same point, AutoPruneError if it is another."""
        with self._writing(f"settling trial {record.number}") as session:
            columns = trial_columns(record)
            if insert_once(session, TrialRow, {"study_id": self.study_id, **columns}):
                self._queue(session, "trial", columns)
                return
            settled = session.get_one(TrialRow, (self.study_id, record.number))
            if (settled.digest, settled.origin) != (record.digest, record.origin):
                raise AutoPruneError(
                    f"study {self.study_id}: trial {record.number} is settled already, as another point "
                    f"('{settled.name}'); is a second driver running?"
                )

    def hold(self) -> None:
        """LeaseLost unless the study is ours to drive. Who took no lease has none to lose."""
        if self._lease is None:
            return
        with self._reading("looking at the lease") as session:
            fresh = self._lease.is_fresh(session)
        if not fresh:
            with self._writing("renewing the lease"):
                pass

    def trials(self) -> list[TrialRecord]:
        with self._reading("reading the trials") as session:
            query = select(TrialRow).where(TrialRow.study_id == self.study_id).order_by(TrialRow.number)
            return [trial_record(row) for row in session.scalars(query)]

    def save_front(self, front: Mapping[str, Any]) -> None:
        """Saving the newest front once more changes nothing."""
        with self._writing("storing the front") as session:
            newest = self._newest_front(session)
            if newest is not None and to_json(newest.document) == to_json(front):
                return
            session.add(FrontRow(study_id=self.study_id, document=dict(front)))
            self._queue(session, "front", front)

    def count_holdout_use(self) -> int:
        with self._writing("counting the holdout's use") as session:
            return count_use(session, session.get_one(StudyRow, self.study_id).holdout)

    def times_looked(self) -> int:
        with self._reading("reading the holdout's uses") as session:
            return uses_of(session, session.get_one(StudyRow, self.study_id).holdout)

    # ------------------------------------------------------------------------------------------------------ the study
    def spec(self) -> dict[str, Any]:
        """The spec as the user wrote it."""
        return self._study().spec

    def name(self) -> str:
        return self._study().name

    def spec_text(self) -> str:
        """The spec's file; empty where the study was made before it was kept."""
        return self._study().spec_text

    def resolved(self) -> dict[str, Any]:
        """The spec with everything filled in."""
        return self._study().resolved

    def state(self) -> StudyState:
        return cast(StudyState, self._study().state)

    def set_state(self, state: StudyState) -> None:
        if state not in get_args(StudyState):
            raise ValueError(f"'{state}' is no state of a study; allowed: {', '.join(get_args(StudyState))}")
        with self._writing("changing the study's state") as session:
            session.get_one(StudyRow, self.study_id).state = state

    def front(self) -> dict[str, Any] | None:
        """The newest front document, or None."""
        with self._reading("reading the front") as session:
            newest = self._newest_front(session)
            return None if newest is None else newest.document

    def baseline(self) -> TrialRecord | None:
        """The settled measurement of the unpruned model, or None."""
        with self._reading("reading the baseline") as session:
            query = select(TrialRow).where(TrialRow.study_id == self.study_id, TrialRow.origin == "baseline")
            row = session.scalars(query.order_by(TrialRow.number).limit(1)).first()
            return None if row is None else trial_record(row)

    def lease(self, holder: str, ttl: float = 60) -> _Held:
        """Context manager: be the study's only driver. AutoPruneError naming holder and age if there is one already."""
        return _Held(self, Lease(self._engine, self.study_id, holder, ttl))

    # ----------------------------------------------------------------------------------------------------- the outbox
    def outbox(self, published: bool = False) -> list[OutboxRow]:
        """What still waits for the publisher, in the order it happened; with `published`, what was published too."""
        with self._reading("reading the outbox") as session:
            query = select(OutboxEntry).where(OutboxEntry.study_id == self.study_id).order_by(OutboxEntry.id)
            waiting = query if published else query.where(OutboxEntry.published_at.is_(None))
            return [outbox_row(row) for row in session.scalars(waiting)]

    def queue(self, kind: OutboxKind, payload: Mapping[str, Any]) -> None:
        """Ask the publisher for something beside trials and fronts (which queue themselves): `publish`."""
        with self._writing("queueing for the publisher") as session:
            self._queue(session, kind, payload)

    def mark_published(self, row_id: int) -> None:
        """Idempotent: the first time counts."""
        with self._writing("marking an outbox row as published") as session:
            row = self._entry(session, row_id)
            if row.published_at is None:
                row.published_at, row.last_error = now(), ""

    def mark_failed_attempt(self, row_id: int, error: str) -> None:
        """The row stays in the outbox; its attempts grow by one."""
        with self._writing("noting a failed attempt to publish") as session:
            row = self._entry(session, row_id)
            row.attempts, row.last_error = row.attempts + 1, error

    # ------------------------------------------------------------------------------------------------------- insides
    def _entry(self, session: Session, row_id: int) -> OutboxEntry:
        row = session.get(OutboxEntry, row_id, with_for_update=True)
        if row is None or row.study_id != self.study_id:
            raise KeyError(f"study {self.study_id} has no outbox row {row_id}")
        return row

    def _queue(self, session: Session, kind: OutboxKind, payload: Mapping[str, Any]) -> None:
        if kind not in get_args(OutboxKind):
            raise ValueError(f"'{kind}' is no kind of outbox row; allowed: {', '.join(get_args(OutboxKind))}")
        session.add(OutboxEntry(study_id=self.study_id, kind=kind, payload=dict(payload)))

    def _newest_front(self, session: Session) -> FrontRow | None:
        query = select(FrontRow).where(FrontRow.study_id == self.study_id).order_by(FrontRow.id.desc()).limit(1)
        return session.scalars(query).first()

    def _study(self) -> StudyRow:
        with self._reading("reading the study") as session:
            return session.get_one(StudyRow, self.study_id)

    @contextmanager
    def _reading(self, doing: str) -> Iterator[Session]:
        with translated(self._where, doing), Session(self._engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def _writing(self, doing: str, fenced: bool = True) -> Iterator[Session]:
        with translated(self._where, doing), Session(self._writes) as session, session.begin():
            if fenced and self._lease is not None:
                self._lease.renew(session)
            yield session


def _request(stored: Mapping[str, Any]) -> EvalRequest:
    """What was asked, as its key was made from it."""
    return EvalRequest(stored["policy"], stored["split"], tuple(stored["measures"]), stored["limit"])


class _Held:
    """A lease bound to the log whose writes it guards."""

    def __init__(self, log: StudyLog, lease: Lease) -> None:
        self._log, self._lease = log, lease

    def __enter__(self) -> Lease:
        self._lease.__enter__()
        self._log._lease = self._lease
        return self._lease

    def __exit__(self, *error: Any) -> None:
        self._log._lease = None
        self._lease.__exit__(*error)
