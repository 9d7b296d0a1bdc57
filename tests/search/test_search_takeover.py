"""A driver that slept through its lease while another one took the study over: it ends, and harms nothing."""

import threading
from dataclasses import dataclass

import optuna
import pytest
from search_support import FakeExecutor, FakeLog, Watcher, fresh, make_plan, run

from autoprune.errors import LeaseLost
from autoprune.search.driver import run as drive


class Seen:
    """One driver's view of the store: refuses its writes once the study is another's."""

    def __init__(self, log):
        self._log, self.lost = log, False

    def __getattr__(self, name):
        return getattr(self._log, name)

    def hold(self):
        if self.lost:
            raise LeaseLost("the lease expired; 'B' drives it now")

    def settle(self, record):
        self.hold()
        self._log.settle(record)


class Sleep:
    """Sleeps once, at the n-th passing, until woken."""

    def __init__(self, nth):
        self.left, self.asleep, self.woken = nth, threading.Event(), threading.Event()

    def pass_by(self):
        self.left -= 1
        if self.left == 0:
            self.asleep.set()
            assert self.woken.wait(30)


class SleepyPublisher(Sleep):
    flush = Sleep.pass_by


@dataclass
class SleepyExecutor(FakeExecutor):
    nap: Sleep | None = None

    def wait(self, timeout=None):
        self.nap.pass_by()
        return super().wait(timeout)


@dataclass
class Successor(FakeExecutor):
    """Lets the sleeper wake and end while its third evaluation runs."""

    nap: Sleep | None = None
    sleeper: threading.Thread | None = None

    def wait(self, timeout=None):
        if len(self.submitted) == 3:
            self.nap.woken.set()
            self.sleeper.join(30)
        return super().wait(timeout)


@pytest.mark.parametrize("where", ["flush", "wait"])
def test_who_slept_through_its_lease_leaves_its_successor_alone(where, tmp_path):
    plan = make_plan(storage=f"sqlite:///{tmp_path}/optuna.db", references=(), trials=12)
    log, ends = FakeLog(), []
    seen, nap = Seen(log), SleepyPublisher(6)
    publisher = nap if where == "flush" else SleepyPublisher(0)
    executor = SleepyExecutor(nap=Sleep(0)) if where == "flush" else SleepyExecutor(nap=nap)

    def sleepy():
        try:
            drive(plan, executor, seen, publisher, Watcher())
        except Exception as error:  # noqa: BLE001
            ends.append(error)

    sleeper = threading.Thread(target=sleepy)
    sleeper.start()
    assert nap.asleep.wait(30)
    seen.lost = True
    run(plan, Successor(nap=nap, sleeper=sleeper), log)
    assert [type(end) for end in ends] == [LeaseLost]
    assert len(fresh(log)) == plan.trials
    trials = optuna.load_study(study_name=plan.study_id, storage=plan.storage).trials
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED", "FAIL"}
    retried = [trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs]
    assert len(retried) <= 1, "the successor asked again what was in flight; nobody else did"


def test_an_interrupt_after_the_lease_is_lost_gives_nothing_back(tmp_path):
    plan = make_plan(storage=f"sqlite:///{tmp_path}/optuna.db", references=(), trials=6)
    seen = Seen(FakeLog())

    class Stopped(FakeExecutor):
        def wait(self, timeout=None):
            if len(self.submitted) == 3:
                seen.lost = True
                raise KeyboardInterrupt
            return super().wait(timeout)

    with pytest.raises(KeyboardInterrupt):
        run(plan, Stopped(), seen)
    states = [t.state.name for t in optuna.load_study(study_name=plan.study_id, storage=plan.storage).trials]
    assert "RUNNING" in states, "it is the new driver's to repair"
