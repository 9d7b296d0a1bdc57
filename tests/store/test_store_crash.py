"""A process killed in the middle of a write, and two drivers of one study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import update
from store_samples import new_study, record

from autoprune.errors import AutoPruneError, LeaseLost
from autoprune.store import open_store
from autoprune.store.store import Store
from autoprune.store.tables import LeaseRow

KILLED_WHILE_SETTLING = """
import os, signal, sys
from sqlalchemy import event
from store_samples import new_study, record
from autoprune.store import open_store

store = open_store(sys.argv[1])
log = new_study(store)
log.settle(record(0))

@event.listens_for(store.engine, sys.argv[2])
def die(connection, *rest):
    statement = rest[1] if len(rest) > 1 else ""
    if sys.argv[2] == "commit" or "autoprune_outbox" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

log.settle(record(1))
"""

HOLDS_THE_LEASE = """
import sys, time
from store_samples import new_study
from autoprune.store import open_store

with open_store(sys.argv[1]) as store, new_study(store).lease("first driver", ttl=float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


@contextmanager
def another_driver(url: str, ttl: float = 60) -> Iterator[subprocess.Popen[str]]:
    with start(HOLDS_THE_LEASE, url, str(ttl)) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "held"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("moment", ["after_cursor_execute", "commit"])
def test_killed_between_the_trial_and_its_outbox_row_neither_is_there(url: str, moment: str) -> None:
    process = start(KILLED_WHILE_SETTLING, url, moment)
    assert process.wait() == -signal.SIGKILL
    with open_store(url) as store:
        log = store.study("llava-0001")
        assert log.trials() == [record(0)]
        assert [row.kind for row in log.outbox()] == ["study", "trial"]
        log.settle(record(1))
        assert len(log.trials()) == 2
        assert len(log.outbox()) == 3


def test_a_second_driver_is_refused_by_name_and_age(url: str, store: Store) -> None:
    with another_driver(url):
        log = new_study(store)
        says = r"llava-0001 is being driven by 'first driver' since 2\d{3}-\d\d-\d\d .*, last heartbeat \d+ s ago"
        with pytest.raises(AutoPruneError, match=says), log.lease("second driver"):
            pytest.fail("two drivers")
        with new_study(store, "another study").lease("second driver"):
            pass


def test_the_lease_of_a_process_that_is_gone_is_free_at_once(url: str, store: Store) -> None:
    with another_driver(url) as process:
        process.kill()
        process.wait()
        with new_study(store).lease("second driver") as held:
            assert held is not None


def test_a_dead_process_number_says_nothing_about_another_host_of_the_same_name(
    url: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another_driver(url) as process:
        process.kill()
        process.wait()
        elsewhere = tmp_path / "boot_id"
        elsewhere.write_text("another kernel\n")
        monkeypatch.setattr("autoprune.store.lease.BOOT", elsewhere)
        with pytest.raises(AutoPruneError, match="is being driven by"), new_study(store).lease("second driver"):
            pytest.fail("two drivers")


def test_the_heart_goes_on_after_a_defect(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    beats = []

    def broken(*_: object) -> None:
        beats.append(threading.current_thread().is_alive())
        raise RuntimeError("nobody expected this")

    with new_study(store).lease("first", ttl=0.3):
        monkeypatch.setattr("autoprune.store.lease.Lease.renew", broken)
        until = time.monotonic() + 20
        while len(beats) < 3 and time.monotonic() < until:
            time.sleep(0.05)
    assert len(beats) >= 3


def test_exactly_one_of_two_contending_processes_wins(url: str, store: Store) -> None:
    new_study(store)
    with start(HOLDS_THE_LEASE, url, "60") as one, start(HOLDS_THE_LEASE, url, "60") as two:
        try:
            until = time.monotonic() + 30
            while one.poll() is None and two.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            assert sorted([one.poll() is None, two.poll() is None]) == [False, True]
        finally:
            one.kill()
            two.kill()


def age(store: Store, seconds: float, host: str = "elsewhere") -> None:
    """Let the lease look as if its heart had stopped, on another machine."""
    with store.engine.begin() as connection:
        connection.execute(update(LeaseRow).values(heartbeat=LeaseRow.heartbeat - seconds, host=host))


def test_an_expired_lease_is_taken_over_and_its_former_holder_cannot_write(store: Store) -> None:
    slept, awake = new_study(store), new_study(store)
    with slept.lease("sleeper", ttl=60):
        age(store, 30)
        with pytest.raises(AutoPruneError, match=r"'sleeper' since .*, last heartbeat 30 s ago"), awake.lease("second"):
            pytest.fail("two drivers")
        age(store, 31)
        with awake.lease("second"):
            says = "the lease of 'sleeper' expired .*; 'second' drives it now"
            for write in (lambda: slept.settle(record(0)), lambda: slept.save_front({}), slept.count_holdout_use):
                with pytest.raises(LeaseLost, match=says):
                    write()
            for beside in (slept.hold, lambda: slept.mark_published(1), lambda: slept.mark_failed_attempt(1, "away")):
                with pytest.raises(LeaseLost, match=says):
                    beside()
            awake.hold()
            awake.settle(record(0, name="of the second"))
        assert [trial.name for trial in slept.trials()] == ["of the second"]


def test_the_heart_beats_and_leaving_frees(store: Store) -> None:
    log = new_study(store)
    with log.lease("first", ttl=0.3):
        time.sleep(1.0)
        with pytest.raises(AutoPruneError, match="is being driven by 'first'"), log.lease("second"):
            pytest.fail("two drivers")
    with log.lease("second"):
        log.settle(record(0))
    assert log.trials() == [record(0)]


def test_an_error_in_the_block_goes_through_and_frees(store: Store) -> None:
    log = new_study(store)
    with pytest.raises(ZeroDivisionError), log.lease("first"):
        raise ZeroDivisionError
    with log.lease("second"):
        pass
    with pytest.raises(ValueError, match="above 0"):
        log.lease("third", ttl=0)
