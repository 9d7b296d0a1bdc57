"""How long a database that is away is waited for, and by whom."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from sqlalchemy import event
from store_samples import KEY, new_study

from autoprune import outage
from autoprune.outage import HURRY, Away, Patience, hurried, patience
from autoprune.ports import EvalRequest, Measurement
from autoprune.store import study_log
from autoprune.store.store import Store


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def refuse() -> None:
    raise RuntimeError("connection refused")


def test_who_is_in_a_hurry_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(outage, "time", clock)
    waiting = Patience("the store")
    waiting.connect(lambda: None)
    with pytest.raises(RuntimeError, match="refused"):
        waiting.connect(refuse)
    assert clock.now == pytest.approx(outage.PATIENCE, abs=0.5)
    for within in (HURRY, 0.0):
        began = clock.now
        with hurried(within), pytest.raises(RuntimeError, match="refused"):
            waiting.connect(refuse)
        assert clock.now - began == pytest.approx(within, abs=0.5)


def test_the_heart_waits_for_no_database_and_leaving_hardly(store: Store) -> None:
    log, seen = new_study(store), []
    with log.lease("first", ttl=0.3):

        @event.listens_for(store.engine, "begin")
        def begin(_connection: Any) -> None:
            seen.append((threading.current_thread().name.startswith("lease"), patience()))

        until = time.monotonic() + 20
        while not seen and time.monotonic() < until:
            time.sleep(0.05)
    assert set(seen) == {(True, 0.0), (False, HURRY)}
    assert patience() == outage.PATIENCE


def test_an_evaluation_is_stored_though_the_database_went_away_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, insert, tries = new_study(store), study_log.insert_once, []

    def cut_once(*arguments: Any) -> bool:
        tries.append(1)
        if len(tries) == 1:
            raise Away("terminating connection")
        return insert(*arguments)

    monkeypatch.setattr(study_log, "insert_once", cut_once)
    found = Measurement({"nll": 1.0}, {"nll": (1.0,)}, (0,))
    log.remember(KEY, EvalRequest(None, "search", ("nll",)), found)
    assert log.find(KEY) == found
    assert len(tries) == 2
