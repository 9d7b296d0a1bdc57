from __future__ import annotations

import json

import pytest
from store_samples import new_study, record

from autoprune.errors import AutoPruneError, BadInput
from autoprune.store import open_store
from autoprune.store.store import Store


def test_creating_again_returns_the_existing_study(store: Store) -> None:
    log = new_study(store)
    log.settle(record(0))
    again = new_study(store)
    assert again.trials() == [record(0)]
    assert [row.kind for row in again.outbox()] == ["study", "trial"]


def test_raising_trials_continues_the_study_with_the_new_spec(store: Store) -> None:
    log = new_study(store)
    new_study(store, spec={"trials": 16}, resolved={"trials": 16})
    assert log.spec() == {"trials": 16}
    assert log.resolved() == {"trials": 16}
    assert [row.payload["spec"]["trials"] for row in log.outbox()] == [8, 16]


def test_the_same_id_for_another_content_is_refused(store: Store) -> None:
    new_study(store)
    with pytest.raises(AutoPruneError, match="exists already with another content"):
        new_study(store, digest="d2")


def test_everything_is_there_after_opening_again(url: str) -> None:
    with open_store(url) as store:
        new_study(store).settle(record(0))
    with open_store(url) as store:
        assert store.study("llava-0001").trials() == [record(0)]


def test_studies_are_summed_up_newest_first(store: Store) -> None:
    assert store.studies() == []
    log = new_study(store)
    states = ["complete", "complete", "failed", "infeasible", "complete"]
    for number, state in enumerate(states):
        log.settle(record(number, state=state, origin="baseline" if number == 0 else "trial"))
    log.save_front({"members": [{"selected": True, "search": {"m": 1.0}}]})
    log.save_front({"members": [{"selected": False}, {"selected": True, "search": {"m": 0.5}}]})
    new_study(store, "later", name="x")
    later, summary = store.studies()
    assert later.id == "later"
    assert (later.complete, later.front, later.best) == (0, None, {})
    assert (summary.complete, summary.failed, summary.infeasible) == (2, 1, 1)
    assert (summary.front, summary.best) == (2, {"m": 0.5})
    assert (summary.name, summary.state, summary.digest) == ("llava", "created", "d1")
    assert summary.created.utcoffset() is not None
    assert json.loads(json.dumps(summary.to_json()))["created"].endswith("+00:00")


def test_resolving_what_a_user_writes(store: Store) -> None:
    for study_id, name in (("llava-0001", "llava"), ("llava-0002", "llava"), ("qwen-77", "qwen2")):
        new_study(store, study_id, name=name)
    assert store.resolve("llava-0001") == "llava-0001"
    assert store.resolve("llava") == "llava-0002"  # a name, though it also begins both ids: the latest
    assert store.resolve("qw") == "qwen-77"
    with pytest.raises(BadInput, match=r"begins 2 studies: llava-0002 \(llava\), llava-0001 \(llava\)"):
        store.resolve("llava-")
    for unknown in ("nope", ""):
        with pytest.raises(BadInput, match=f"no study '{unknown}'; there are: qwen-77"):
            store.resolve(unknown)
    with pytest.raises(BadInput, match="no study 'nope'"):
        store.study("nope")


def test_an_empty_store_says_so(store: Store) -> None:
    with pytest.raises(BadInput, match="no study 'x'; the store is empty"):
        store.resolve("x")
