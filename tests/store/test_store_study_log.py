from __future__ import annotations

import math
import struct
from dataclasses import fields, replace
from types import MappingProxyType

import pytest
from sqlalchemy import func, select
from store_samples import KEY, ODD_FLOATS, measurement, new_study, record, request

from autoprune.errors import AutoPruneError
from autoprune.ports import CalibrationSource, TrialLog, TrialRecord
from autoprune.store.store import Store
from autoprune.store.tables import EvaluationRow, TrialRow


def bits(values: object) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]  # type: ignore[attr-defined]


def test_a_trial_comes_back_as_it_was(store: Store) -> None:
    log = new_study(store)
    written = [
        record(0),
        record(1, policy=None, canonical=None, sampler_number=None, evaluation_key=None, cached=False),
    ]
    for one in written:
        log.settle(one)
    read = store.study("llava-0001").trials()
    assert read == written
    assert bits(read[0].values.values()) == bits(ODD_FLOATS)
    assert math.copysign(1, read[0].values["m4"]) == -1


def test_trials_come_by_number_whatever_the_order_of_writing(store: Store) -> None:
    log = new_study(store)
    for number in (10, 2, 0):
        log.settle(record(number))
    assert [trial.number for trial in log.trials()] == [0, 2, 10]


def test_the_columns_are_the_fields_of_the_record() -> None:
    assert {f.name for f in fields(TrialRecord)} <= set(TrialRow.__table__.columns.keys())


def test_a_measurement_comes_back_as_it_was(store: Store) -> None:
    log = new_study(store)
    assert log.find(KEY) is None
    log.remember(KEY, request(), measurement())
    found = log.find(KEY)
    assert found == measurement()
    assert found is not None
    assert bits(found.samples["exact_match"]) == bits(ODD_FLOATS)


def test_remember_is_idempotent_and_the_first_stays(store: Store) -> None:
    log = new_study(store)
    log.remember(KEY, request(), measurement(0.5))
    log.remember(KEY, request(), measurement(0.75))
    found = log.find(KEY)
    assert found is not None
    assert found.values["exact_match"] == 0.5
    with store.engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(EvaluationRow)) == 1


def test_another_study_finds_the_same_evaluation(store: Store) -> None:
    new_study(store, "one").remember(KEY, request(), measurement())
    assert new_study(store, "two").find(KEY) == measurement()


def test_settle_writes_the_trial_and_its_outbox_row_once(store: Store) -> None:
    log = new_study(store)
    log.settle(record(0))
    log.settle(record(0))
    log.settle(replace(record(0), seconds=9.0, cached=False))  # the same point, measured again after a crash
    assert log.trials() == [record(0)]
    kinds = [row.kind for row in log.outbox()]
    assert kinds == ["study", "trial"]
    payload = log.outbox()[1].payload
    assert TrialRecord(**payload) == record(0)


def test_another_point_under_a_settled_number_is_refused(store: Store) -> None:
    log = new_study(store)
    log.settle(record(0))
    with pytest.raises(AutoPruneError, match="trial 0 is settled already, as another point"):
        log.settle(record(0, digest="another"))
    assert log.trials() == [record(0)]
    assert len(log.outbox()) == 2


def test_mappings_of_any_kind_are_stored(store: Store) -> None:
    log = new_study(store)
    frozen = MappingProxyType({"a": MappingProxyType({"b": (1, 2)})})
    log.settle(record(0, params=frozen))
    assert log.trials()[0].params == {"a": {"b": [1, 2]}}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_whole(store: Store, value: float) -> None:
    log = new_study(store)
    with pytest.raises(AutoPruneError, match="settling trial 0 failed: a number in it is not finite"):
        log.settle(record(0, values={"m": value}))
    with pytest.raises(AutoPruneError, match="storing an evaluation failed: a number in it is not finite"):
        log.remember(KEY, request(), measurement(value))
    log.save_front({"members": []})
    with pytest.raises(AutoPruneError, match="storing the front failed: a number in it is not finite"):
        log.save_front({"members": [value]})
    assert log.trials() == []
    assert log.find(KEY) is None
    assert [row.kind for row in log.outbox()] == ["study", "front"]


def test_fronts(store: Store) -> None:
    log = new_study(store)
    assert log.front() is None
    log.save_front({"members": [], "of": (1, 2)})
    log.save_front({"members": [], "of": (1, 2)})
    assert [row.kind for row in log.outbox()] == ["study", "front"]
    log.save_front({"members": [{"policy": "fastv"}]})
    assert log.front() == {"members": [{"policy": "fastv"}]}
    assert [row.payload for row in log.outbox() if row.kind == "front"][-1] == log.front()
    assert new_study(store, "other").front() is None


def test_the_outbox(store: Store) -> None:
    log = new_study(store)
    log.settle(record(0))
    log.queue("publish", {"folder": "p"})
    first, second, third = log.outbox()
    assert [first.kind, second.kind, third.kind] == ["study", "trial", "publish"]
    assert first.payload["spec"] == {"trials": 8}
    log.mark_published(first.id)
    log.mark_failed_attempt(second.id, "connection refused")
    log.mark_failed_attempt(second.id, "still refused")
    waiting = log.outbox()
    assert [row.id for row in waiting] == [second.id, third.id]
    assert (waiting[0].attempts, waiting[0].last_error) == (2, "still refused")
    everything = log.outbox(published=True)
    assert [row.id for row in everything] == [first.id, second.id, third.id]
    when = everything[0].published
    assert when is not None
    assert when.tzinfo is not None
    log.mark_published(first.id)
    assert log.outbox(published=True)[0].published == when


def test_outbox_rows_of_another_study_are_not_touched(store: Store) -> None:
    one, two = new_study(store, "one"), new_study(store, "two")
    (row,) = one.outbox()
    with pytest.raises(KeyError):
        two.mark_published(row.id)
    with pytest.raises(KeyError):
        two.mark_failed_attempt(999, "x")
    assert [other.study for other in two.outbox()] == ["two"]
    with pytest.raises(ValueError, match="allowed: study, trial, front, publish"):
        two.queue("telegram", {})  # type: ignore[arg-type]


def source(**changes: object) -> CalibrationSource:
    given: dict[str, object] = {
        "records": "/a/records.jsonl",
        "images": None,
        "search": 512,
        "holdout": 1000,
        "stratify_by": "type",
        "seed": 7,
        "digest": "c1",
    }
    return CalibrationSource(**(given | changes))  # type: ignore[arg-type]


def test_holdout_uses_are_counted_over_studies_by_content_and_split(store: Store) -> None:
    here = new_study(store, "one", calibration=source())
    moved = new_study(store, "two", calibration=source(records="/b/records.jsonl"))
    other_split = new_study(store, "three", calibration=source(seed=8))
    other_data = new_study(store, "four", calibration=source(digest="c2"))
    assert here.times_looked() == 0
    assert [here.count_holdout_use(), moved.count_holdout_use(), here.count_holdout_use()] == [1, 2, 3]
    assert [log.times_looked() for log in (here, moved, other_split)] == [3, 3, 0]
    assert other_split.count_holdout_use() == 1
    assert other_data.count_holdout_use() == 1
    assert new_study(store, "own").count_holdout_use() == 1
    assert new_study(store, "own too").count_holdout_use() == 1
    with pytest.raises(ValueError, match="digest"):
        new_study(store, "five", calibration=source(digest=""))


def test_states_spec_and_baseline(store: Store) -> None:
    log = new_study(store)
    assert log.state() == "created"
    log.set_state("running")
    assert store.study("llava-0001").state() == "running"
    with pytest.raises(ValueError, match="allowed: created, running"):
        log.set_state("tired")  # type: ignore[arg-type]
    assert log.spec() == {"trials": 8}
    assert log.resolved() == {"trials": 8, "seed": 0}
    assert log.baseline() is None
    log.settle(record(0, origin="baseline"))
    log.settle(record(1))
    assert log.baseline() == record(0, origin="baseline")


def test_the_log_is_a_trial_log(store: Store) -> None:
    log: TrialLog = new_study(store)
    assert log.trials() == []
