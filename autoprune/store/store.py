"""The repository: studies by id, and one `StudyLog` for each."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from autoprune.errors import AutoPruneError, BadInput
from autoprune.ports import CalibrationSource
from autoprune.store.engine import open_engine, shown, to_json, writing
from autoprune.store.faults import translated
from autoprune.store.migrate import migrate
from autoprune.store.rows import insert_once
from autoprune.store.study_log import StudyLog
from autoprune.store.tables import FrontRow, OutboxEntry, StudyRow, TrialRow
from autoprune.store.values import StudyState, StudySummary


class Store:
    """All studies behind one database URL. Use `open_store`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._where = shown(engine.url)

    @classmethod
    def open(cls, url: str) -> Store:
        """See `autoprune.store.open_store`."""
        engine = open_engine(url)
        try:
            with translated(shown(engine.url), "opening the store"):
                migrate(engine)
        except AutoPruneError as error:
            engine.dispose()
            if isinstance(error.__cause__, DatabaseError) and "not a database" in str(error.__cause__):
                raise BadInput(str(error)) from error
            raise
        return cls(engine)

    def close(self) -> None:
        """Give the connections back. Idempotent."""
        self.engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -------------------------------------------------------------------------------------------------------- studies
    def create_study(
        self,
        study_id: str,
        *,
        name: str,
        digest: str,
        spec: Mapping[str, Any],
        resolved: Mapping[str, Any],
        calibration: CalibrationSource | None = None,
        spec_text: str = "",
    ) -> StudyLog:
        """Make a study and queue it for the publisher; the same id again returns the existing one. `spec_text` is the
        spec's file as it was written.

        Then the stored spec follows what is given, and a change is queued too (trials, time, executor and output may
        differ between runs of one study); another `digest` under the same id is an AutoPruneError. Studies with the
        same `calibration` digest and split share one count of holdout uses; without `calibration` a study has its own.
        """
        holdout = holdout_key(calibration) if calibration is not None else f"study {study_id}"
        row = {"id": study_id, "name": name, "digest": digest, "spec": spec, "resolved": resolved}
        with self._session("creating the study", write=True) as session, session.begin():
            if insert_once(session, StudyRow, {**row, "spec_text": spec_text, "holdout": holdout, "state": "created"}):
                session.add(OutboxEntry(study_id=study_id, kind="study", payload=row))
            else:
                study = session.get_one(StudyRow, study_id)
                if study.digest != digest:
                    raise AutoPruneError(
                        f"study {study_id} exists already with another content (digest {study.digest}, not {digest})"
                    )
                study.spec_text = spec_text
                if to_json([study.spec, study.resolved]) != to_json([spec, resolved]):
                    study.spec, study.resolved = dict(spec), dict(resolved)
                    session.add(OutboxEntry(study_id=study_id, kind="study", payload=row))
        return StudyLog(self.engine, study_id)

    def study(self, study_id: str) -> StudyLog:
        """The log of an existing study; BadInput naming the candidates if there is none."""
        with self._session("looking up the study") as session:
            if session.get(StudyRow, study_id) is None:
                raise self._unknown(study_id, self.studies())
        return StudyLog(self.engine, study_id)

    def evaluations(self) -> StudyLog:
        """What was measured in any study. Belongs to no study: only `find` and `remember` mean something on it."""
        return StudyLog(self.engine, "")

    def studies(self) -> list[StudySummary]:
        """All studies, the newest first."""
        with self._session("reading the studies") as session:
            rows = session.scalars(select(StudyRow).order_by(StudyRow.created.desc(), StudyRow.id)).all()
            counts = _counts(session)
            fronts = _newest_fronts(session)
        return [_summary(row, counts, fronts.get(row.id)) for row in rows]

    def resolve(self, text: str) -> str:
        """A study's id from its id, its name (the latest of that name) or the beginning of one id; else BadInput."""
        studies = self.studies()
        for study in studies:
            if study.id == text:
                return study.id
        named = [study for study in studies if study.name == text]
        if named:
            return named[0].id
        begun = [study for study in studies if text and study.id.startswith(text)]
        if len(begun) == 1:
            return begun[0].id
        if begun:
            raise BadInput(f"'{text}' begins {len(begun)} studies: {_listed(begun)}; write more of the id")
        raise self._unknown(text, studies)

    # -------------------------------------------------------------------------------------------------------- insides
    def _unknown(self, text: str, studies: list[StudySummary]) -> BadInput:
        known = f"; there are: {_listed(studies)}" if studies else "; the store is empty"
        return BadInput(f"{self._where} holds no study '{text}'{known}")

    @contextmanager
    def _session(self, doing: str, write: bool = False) -> Iterator[Session]:
        engine = writing(self.engine) if write else self.engine
        with translated(self._where, doing), Session(engine) as session:
            yield session


def holdout_key(calibration: CalibrationSource) -> str:
    """What a holdout *is*: the records' content and how they are split; not where they lie."""
    if not calibration.digest:
        raise ValueError("a holdout is identified by the calibration's digest, which is empty")
    split = [calibration.search, calibration.holdout, calibration.stratify_by, calibration.seed]
    return f"{calibration.digest}/{hashlib.sha256(json.dumps(split).encode()).hexdigest()[:16]}"


def _counts(session: Session) -> Counter[tuple[str, str]]:
    """How many trials of a study are in a state, the baseline left out."""
    columns = (TrialRow.study_id, TrialRow.state, func.count())
    query = select(*columns).where(TrialRow.origin != "baseline").group_by(TrialRow.study_id, TrialRow.state)
    return Counter({(study, state): count for study, state, count in session.execute(query)})


def _newest_fronts(session: Session) -> dict[str, dict[str, Any]]:
    newest = select(func.max(FrontRow.id)).group_by(FrontRow.study_id)
    return {row.study_id: row.document for row in session.scalars(select(FrontRow).where(FrontRow.id.in_(newest)))}


def _summary(row: StudyRow, counts: Counter[tuple[str, str]], front: Mapping[str, Any] | None) -> StudySummary:
    members = () if front is None else front.get("members", ())
    chosen: Mapping[str, Any] = next((member for member in members if member.get("selected")), {})
    return StudySummary(
        id=row.id,
        name=row.name,
        digest=row.digest,
        state=cast(StudyState, row.state),
        created=row.created,
        complete=counts[row.id, "complete"],
        failed=counts[row.id, "failed"],
        infeasible=counts[row.id, "infeasible"],
        front=None if front is None else len(members),
        best=dict(chosen.get("search", {})),
    )


def _listed(studies: list[StudySummary], most: int = 8) -> str:
    more = f" and {len(studies) - most} more" if len(studies) > most else ""
    return ", ".join(f"{study.id} ({study.name})" for study in studies[:most]) + more
