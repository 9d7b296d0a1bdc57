"""Arms: a sampler's study each, trials shared by what they bring, resumable as without them."""

from __future__ import annotations

import json
from dataclasses import replace

import optuna
import pytest
from search_support import (
    FakeExecutor,
    FakeLog,
    Killed,
    ToySpace,
    fresh,
    make_plan,
    objective,
    parameter,
    reference,
    run,
    rung,
)

from autoprune.ports import TrialRecord
from autoprune.search.bandit import LEAST, Bandit

GOALS = (objective("cost"), objective("nll"))
WORSE = ToySpace(
    parameters=(
        parameter("x", "float", 0.0, 0.3),
        parameter("y", "float", 0.0, 1.0),
        parameter("mode", "choice", choices=("b",)),
    )
)


def plan(**changes):
    return make_plan(**{"first_arm": "good", "more_arms": {"poor": WORSE}, "trials": 20, **changes})


def test_every_arm_has_its_least_and_then_the_better_one_has_more():
    log = FakeLog()
    front = run(plan(trials=30), log=log)
    counts = {arm: sum(r.arm == arm for r in log.settled if r.origin == "trial") for arm in ("good", "poor")}
    assert counts["poor"] >= LEAST
    assert counts["good"] > 1.3 * counts["poor"]
    assert any("proposals by arm" in line and "good" in line for line in front.explanation)


def test_each_arm_is_a_study_of_its_own():
    storage, log = optuna.storages.InMemoryStorage(), FakeLog()
    made = plan(storage=storage)
    run(made, log=log)
    for arm in ("good", "poor"):
        trials = optuna.load_study(study_name=f"{made.study_id}/{arm}", storage=storage).trials
        numbers = [r.sampler_number for r in log.settled if r.arm == arm and r.sampler_number is not None]
        assert sorted(numbers) == list(range(len(trials)))
        assert all(r.params["x"] <= 0.3 for r in log.settled if r.arm == "poor" and r.params)


def test_a_reference_teaches_the_arm_that_has_it():
    log = FakeLog()
    run(plan(references=(reference(0.8, 0.4), replace(reference(0.2, 0.5), arm="good"))), log=log)
    arms = [(r.arm, r.sampler_number is not None) for r in log.settled if r.origin == "reference"]
    assert arms[1] == ("good", True)


@pytest.mark.parametrize("point", ["before remember", "after remember", "before settle", "after settle"])
@pytest.mark.parametrize("nth", [3, 8, 13])
def test_killed_in_an_arm(point, nth):
    def settled(log):
        return json.dumps([(r.number, r.arm, r.digest, r.state, r.values) for r in log.settled])

    looks = {"rungs": (rung(40),), "references": (), "trials": 12}
    whole = FakeLog()
    run(plan(**looks), log=whole)
    log, executor = FakeLog(kill_at=(point, nth)), FakeExecutor()
    made = plan(storage=optuna.storages.InMemoryStorage(), **looks)
    with pytest.raises(Killed):
        run(made, executor, log)
    log.kill_at = None
    run(made, executor, log)
    assert settled(log) == settled(whole)
    asked = [(r.policy, r.split, r.limit) for r in executor.submitted]
    assert len(asked) - len(set(asked)) <= (point == "before remember")


def test_a_sampler_that_lost_its_memory_is_taught_arm_by_arm():
    whole, log = FakeLog(), FakeLog(kill_at=("after settle", 9))
    run(plan(), log=whole)
    with pytest.raises(Killed):
        run(plan(), log=log)
    log.kill_at = None
    run(plan(), log=log)
    assert [r.digest for r in fresh(log)] == [r.digest for r in fresh(whole)]


def test_several_at_once_are_spread_over_arms():
    log = FakeLog()
    run(plan(trials=8, references=()), FakeExecutor(capacity=6), log)
    assert {r.arm for r in fresh(log)[:6]} == {"good", "poor"}


def settled_as(number, arm="", cost=1.0, origin="trial"):
    values = {"cost": cost, "nll": 1.0}
    return TrialRecord(
        number, origin, "t", "complete", {}, "", f"d{number}", values=values, sampler_number=number, arm=arm
    )


def test_what_nothing_came_of_is_asked_less():
    growing = [settled_as(n, "a", 0.9 - 0.05 * n) if n % 2 else settled_as(n, "b", 0.9) for n in range(1, 9)]
    records = [settled_as(0, origin="baseline"), *growing]
    bandit = Bandit(("a", "b"), GOALS)
    assert bandit.choose(records, {}) == "a", "only a's make the front grow"
    assert bandit.choose(records, {"a": 60}) == "b", "those in flight count as asked"
