"""A driver that dies between any two writes, and the next one: nothing lost, nothing twice, the same front."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

import optuna
import pytest
from search_support import (
    ACCURATE,
    FakeExecutor,
    FakeLog,
    FakePublisher,
    Killed,
    ToySpace,
    Watcher,
    constraint,
    fresh,
    make_plan,
    oom,
    reference,
    run,
    rung,
    screen,
)

from autoprune.errors import AutoPruneError
from autoprune.outage import Away
from autoprune.search.driver import run as search
from autoprune.search.memory import SamplerMemory

CHEAP = constraint("cost", "<=", 0.6)
MORE = [pytest.param(n, marks=pytest.mark.full) for n in (2, 4, 7, 8, 10)]
# Coarse, so that duplicates come up; the first reference is in the space, the second a point beside it.
COARSE = {
    "proposals": ToySpace(steps=2, known=True),
    "constraints": (ACCURATE, CHEAP),
    "references": (reference(0.5, 0.5), reference(0.6, 0.5, params=False, name="outside")),
}


SQLITE = pytest.param("sqlite", marks=pytest.mark.full)


@pytest.fixture(params=["memory", SQLITE])
def storage(request):
    """What outlives the driver: Optuna's storage object, or a database where commits cost nothing."""
    if request.param == "memory":
        yield optuna.storages.InMemoryStorage()
    else:
        yield from on_disk()


@pytest.fixture
def database():
    yield from on_disk()


def on_disk():
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield f"sqlite:///{path}/optuna.db"


def plan_in(storage, **changes):
    given = {
        "storage": storage,
        "trials": 10,
        **COARSE,
    }
    return make_plan(**{**given, **changes})


def described(front, log):
    """Everything that must not depend on interruptions (Optuna's own numbers may, and one more look at the holdout is
    rather counted than hidden)."""
    trials = [(r.number, r.origin, r.state, r.digest, r.values, r.constraints, r.cached, r.share) for r in log.settled]
    return json.dumps([{**front.to_json(), "holdout_uses": None}, trials], sort_keys=True)


@cache
def uninterrupted():
    log = FakeLog()
    front = run(make_plan(trials=10, **COARSE), log=log)
    kinds = {(r.state, r.cached) for r in log.settled}
    assert {("complete", False), ("complete", True), ("infeasible", False)} <= kinds, (
        "the toy covers every way to settle"
    )
    return described(front, log)


class DyingMemory(SamplerMemory):
    """The process dies around the n-th telling."""

    before: int | None = None
    after: int | None = None
    tellings = 0

    def tell(self, *args, **kwargs):
        DyingMemory.tellings += 1
        if DyingMemory.tellings == self.before:
            raise Killed
        super().tell(*args, **kwargs)
        if DyingMemory.tellings == self.after:
            raise Killed


def continue_to_the_end(plan, log, executor):
    log.kill_at = None
    front = run(plan, executor, log)
    assert len(fresh(log)) == plan.trials
    study = optuna.load_study(study_name=plan.study_id, storage=plan.storage)
    assert {t.state.name for t in study.trials} <= {"COMPLETE", "PRUNED", "FAIL"}
    return front


@pytest.mark.parametrize("nth", [1, 5, *MORE])
@pytest.mark.parametrize("point", ["before remember", "after remember", "before settle", "after settle"])
def test_killed_around_a_write_of_the_log(storage, point, nth):
    plan, log, executor = plan_in(storage), FakeLog(kill_at=(point, nth)), FakeExecutor()
    with pytest.raises(Killed):
        run(plan, executor, log)
    second = FakeExecutor()
    front = continue_to_the_end(plan, log, second)
    assert described(front, log) == uninterrupted()
    requests = executor.submitted + second.submitted
    # Only what had not reached the store may run again.
    again = 1 if point == "before remember" else 0
    assert len(requests) - len({(r.policy, r.split) for r in requests}) <= again


LOOKS = {"rungs": (screen(20), rung(40, constraints=(ACCURATE, CHEAP))), "proposals": ToySpace(steps=4, known=True)}


@cache
def climbed():
    log = FakeLog()
    front = run(make_plan(**{"trials": 10, **COARSE, **LOOKS}), log=log)
    kinds = {(r.state, r.reason.split()[0], r.cached) for r in log.settled if r.limit is not None}
    for state in ("screened", "partial"):
        assert {(state, "promoted", False), (state, "dropped", False)} <= kinds
    assert any(cached for _, _, cached in kinds), "the toy covers a dropped one that is proposed again"
    return described(front, log)


@pytest.mark.parametrize("nth", [4, 7, 9, *MORE, *(pytest.param(n, marks=pytest.mark.full) for n in (12, 14, 16, 18))])
@pytest.mark.parametrize("point", ["before remember", "after remember", "before settle", "after settle"])
def test_killed_on_a_rung(storage, point, nth):
    plan, log, executor = plan_in(storage, **LOOKS), FakeLog(kill_at=(point, nth)), FakeExecutor()
    with pytest.raises(Killed):
        run(plan, executor, log)
    log.kill_at = None
    second = FakeExecutor()
    front = run(plan, second, log)
    assert described(front, log) == climbed()
    asked = [(r.policy, r.split, r.limit, r.measures) for r in executor.submitted + second.submitted]
    assert len(asked) - len(set(asked)) <= (point == "before remember")


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("nth", [3, 5, *MORE])
def test_killed_around_telling_what_was_dropped(storage, monkeypatch, side, nth):
    monkeypatch.setattr("autoprune.search.desk.SamplerMemory", DyingMemory)
    monkeypatch.setattr(DyingMemory, side, nth)
    monkeypatch.setattr(DyingMemory, "tellings", 0)
    plan, log = plan_in(storage, **LOOKS), FakeLog()
    with pytest.raises(Killed):
        run(plan, FakeExecutor(), log)
    assert described(run(plan, FakeExecutor(), log), log) == climbed()


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("nth", [3, *MORE])
def test_killed_around_telling_the_sampler(storage, monkeypatch, side, nth):
    monkeypatch.setattr("autoprune.search.desk.SamplerMemory", DyingMemory)
    monkeypatch.setattr(DyingMemory, side, nth)
    monkeypatch.setattr(DyingMemory, "tellings", 0)
    plan, log, executor = plan_in(storage), FakeLog(), FakeExecutor()
    with pytest.raises(Killed):
        run(plan, executor, log)
    second = FakeExecutor()
    front = continue_to_the_end(plan, log, second)
    assert described(front, log) == uninterrupted()
    requests = executor.submitted + second.submitted
    assert len(requests) == len({(r.policy, r.split) for r in requests})


def test_killed_again_and_again(database):
    plan, log = plan_in(database), FakeLog()
    runs = 0
    points = ["before remember", "after remember", "before settle", "after settle"]
    while True:
        log.kill_at, log.passed = (points[runs % 4], 2 + runs % 2), {}
        runs += 1
        try:
            front = run(plan, FakeExecutor(), log)
            break
        except Killed:
            assert runs < 60
    assert runs > 5
    assert described(front, log) == uninterrupted()


def test_several_in_flight_when_it_died(storage):
    plan, log = plan_in(storage, proposals=ToySpace(), trials=14), FakeLog(kill_at=("before settle", 7))
    first = FakeExecutor(capacity=4)
    with pytest.raises(Killed):
        run(plan, first, log)
    second = FakeExecutor(capacity=4)
    continue_to_the_end(plan, log, second)
    assert len({r.digest for r in fresh(log)}) == 14
    stored_twice = [r.policy for r in second.submitted if plan.context.key(r) in _known(first, log, plan)]
    assert stored_twice == []


def _known(executor, log, plan):
    return {plan.context.key(r) for r in executor.submitted[:6]} & set(log.evaluations)


def test_a_sampler_that_lost_its_memory_is_taught_again():
    plan, log = make_plan(trials=8), FakeLog(kill_at=("after settle", 6))
    with pytest.raises(Killed):
        run(plan, FakeExecutor(), log)
    log.kill_at = None
    front = run(plan, FakeExecutor(), log)
    whole = FakeLog()
    assert described(front, log) == described(run(plan, FakeExecutor(), whole), whole)


def test_a_told_trial_without_a_stored_evaluation_is_measured_again(storage):
    plan, log = plan_in(storage), FakeLog()
    run(plan, FakeExecutor(), log)
    empty, executor = FakeLog(), FakeExecutor()
    run(plan, executor, empty)
    assert len(fresh(empty)) == 10
    assert {r.digest for r in fresh(empty)} == {r.digest for r in fresh(log)}
    again = FakeExecutor()
    settled = len(empty.settled)
    run(plan, again, empty)
    assert again.submitted == []
    assert len(empty.settled) == settled, "the third start finds nothing to repair"


def test_raising_trials_continues_the_study(storage):
    log = FakeLog()
    run(plan_in(storage, trials=6), FakeExecutor(), log)
    executor = FakeExecutor()
    front = run(plan_in(storage, trials=10), executor, log)
    assert len([r for r in executor.submitted if r.split == "search"]) == 4
    assert described(front, log) == uninterrupted()


def test_constraints_are_all_set_before_a_trial_is_complete(database):
    plan = plan_in(database)
    search(plan, FakeExecutor(), FakeLog(), FakePublisher(), Watcher())
    study = optuna.load_study(study_name=plan.study_id, storage=plan.storage)
    for trial in study.trials:
        assert set(trial.constraints) == {ACCURATE.text, CHEAP.text}
        assert trial.user_attrs["digest"].startswith("d:")
        assert len(trial.user_attrs["key"]) == 64
        if trial.state == optuna.trial.TrialState.PRUNED:
            assert trial.constraints[CHEAP.text] > 0


class Batches(FakeExecutor):
    """All that is in flight ends at once."""

    def wait(self, timeout=None):
        return [outcome for _ in range(len(self.queue)) for outcome in super(Batches, self).wait(timeout)]


@pytest.mark.parametrize("trouble", ["failures", "outage"])
def test_what_ended_together_is_kept_though_the_first_of_it_ends_the_run(storage, trouble):
    """Four end together, and the run with the first of them. What was measured is not measured again."""
    plan, log = make_plan(storage=storage, references=(), trials=10, max_failures=0), FakeLog()
    batches, failing = Batches(capacity=4), (1, 2) if trouble == "failures" else ()  # 0 is the baseline
    batches.script = dict.fromkeys(failing, oom)
    if trouble == "outage":
        log.settle = away_after_the_baseline(log.settle)
    with pytest.raises(AutoPruneError):
        run(plan, batches, log)
    log.__dict__.pop("settle", None)
    paid = {r.policy for number, r in enumerate(batches.submitted) if number not in failing}
    assert len(paid) == 5 - len(failing)
    again = FakeExecutor()
    run(plan, again, log)
    assert paid.isdisjoint(r.policy for r in again.submitted if r.split == "search")


def away_after_the_baseline(settle):
    def settling(record):
        if record.origin != "baseline":
            raise Away("the server does not answer")
        settle(record)

    return settling
