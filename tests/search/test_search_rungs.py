"""Rungs and screens: who is dropped early, what that costs, and that no rung's number becomes an objective's value."""

from __future__ import annotations

import optuna
import pytest
from search_support import (
    ACCURATE,
    LABELS,
    RECORDS,
    FakeExecutor,
    FakeLog,
    ToySpace,
    fresh,
    make_plan,
    measure,
    reference,
    run,
    rung,
    screen,
)

from autoprune.ports import EvalRequest
from autoprune.search.rungs import Standings, better, cut, violation

EIGHTH = RECORDS["search"] // 8


def looked_at(log, state="partial"):
    return [r for r in log.settled if r.state == state and not r.cached]


@pytest.mark.parametrize("capacity", [1, 3])
def test_the_worse_part_is_dropped_and_the_rest_measured_in_full(capacity):
    log, executor = FakeLog(), FakeExecutor(capacity=capacity)
    front = run(make_plan(rungs=(rung(EIGHTH),), trials=16), executor, log)
    looks = looked_at(log)
    dropped = [r for r in looks if r.reason.startswith("dropped")]
    assert len(dropped) >= 4
    assert {r.digest for r in fresh(log)}.isdisjoint(r.digest for r in dropped)
    assert {r.digest for r in looks} - {r.digest for r in dropped} <= {r.digest for r in fresh(log)}
    assert {m.digest for m in front.members} <= {r.digest for r in fresh(log)}
    # Every look is an eighth, and what goes on pays for the other seven. Nothing is proposed that might go over the 16.
    promoted = {r.digest for r in looks} & {r.digest for r in fresh(log)}
    assert promoted
    spent = len(fresh(log)) + len(dropped) / 8
    assert 15 < spent <= 16
    assert all(r.share == 0.125 for r in looks)
    assert {r.share for r in fresh(log) if r.digest in promoted} == {0.875}
    assert sum(r.share for r in paid(log)) == pytest.approx(spent)


def paid(log):
    return [r for r in log.settled if r.origin != "baseline" and not r.cached and r.state != "infeasible"]


@pytest.mark.parametrize("capacity", [1, 3])
def test_no_record_is_measured_twice(capacity):
    """Whoever climbs two rungs behind a screen has been paid for once: the screen's pass gives the study's measures."""
    ran = []

    def answer(request):
        found = measure(request)
        if request.policy is not None and request.split == "search":
            ran.append(found.fresh)
        return found

    log, executor = FakeLog(), FakeExecutor(capacity=capacity, answer=answer)
    run(make_plan(rungs=(screen(EIGHTH // 2), rung(EIGHTH), rung(4 * EIGHTH)), trials=16), executor, log)
    for digest in {r.digest for r in fresh(log)}:
        assert sum(r.share for r in paid(log) if r.digest == digest) == pytest.approx(1), digest
    assert sum(ran) / RECORDS["search"] == pytest.approx(sum(r.share for r in paid(log)))
    climbed = [r.share for r in fresh(log) if r.origin == "trial"]
    assert climbed
    assert set(climbed) == {0.5}


def test_what_is_known_comes_to_the_same_numbers():
    with_rungs, without = FakeLog(), FakeLog()
    run(make_plan(rungs=(screen(20), rung(EIGHTH)), trials=8), log=with_rungs)
    run(make_plan(trials=8), log=without)
    for log in (with_rungs, without):
        for record in fresh(log):
            assert record.values == measure(EvalRequest(record.canonical, "search", LABELS)).values
    kept = [m for m in with_rungs.evaluations.values() if len(m.images) in (20, EIGHTH)]
    assert len(kept) > 4, "the store keeps every look"


def test_part_of_what_the_unpruned_model_did_is_not_done_again():
    log, executor = FakeLog(), FakeExecutor()
    run(make_plan(rungs=(screen(20), rung(EIGHTH)), trials=2), executor, log)
    looks = {r.limit: r for r in executor.submitted if r.policy is None and r.limit is not None}
    assert len(looks[EIGHTH].known.images) == RECORDS["search"]
    assert measure(looks[EIGHTH]).fresh == 0
    assert measure(looks[20]).fresh == 20, "the screen's own measure is not known"


def test_it_drops_what_is_really_worse():
    """More of the same budget goes to points near the front than without rungs."""

    def quality(rungs):
        log = FakeLog()
        run(make_plan(rungs=rungs, trials=40), log=log)
        measured = [r for r in fresh(log) if r.origin == "trial"]
        return sum(ACCURATE.slack(r.values["acc"], 0.95) <= 0 for r in measured) / len(measured)

    assert quality((rung(EIGHTH),)) > quality(()) + 0.1


def test_what_was_measured_in_full_stands_at_a_rung_for_nothing():
    log, executor = FakeLog(), FakeExecutor()
    run(make_plan(rungs=(rung(EIGHTH),), trials=6), executor, log)
    references = {r.canonical for r in log.settled if r.origin == "reference"}
    assert not any(r.limit == EIGHTH and r.policy in references for r in executor.submitted)
    first = looked_at(log)[0]
    assert first.reason.endswith("of 3 are in a better front there"), "two references were known"


def test_the_sampler_is_told_of_a_dropped_one_once():
    storage = optuna.storages.InMemoryStorage()
    log = FakeLog()
    plan = make_plan(rungs=(rung(EIGHTH // 2), rung(EIGHTH)), trials=12, storage=storage)
    run(plan, log=log)
    trials = optuna.load_study(study_name=plan.study_id, storage=storage).trials
    told = [r for r in looked_at(log) if r.sampler_number is not None]
    assert told
    assert all(r.reason.startswith("dropped") for r in told)
    assert all(trials[r.sampler_number].state == optuna.trial.TrialState.PRUNED for r in told)
    numbers = [r.sampler_number for r in log.settled if r.sampler_number is not None]
    assert len(numbers) == len(set(numbers)) == len(trials)
    assert any(r.limit == EIGHTH and r.reason.startswith("dropped") for r in told)


def test_a_screen_asks_for_its_own_measures_only():
    log, executor = FakeLog(), FakeExecutor()
    front = run(make_plan(rungs=(screen(20),), trials=12), executor, log)
    screened = looked_at(log, "screened")
    assert {len(r.values) for r in screened} == {2}
    assert {r.reason.split()[0] for r in screened} == {"promoted", "dropped"}
    assert {r.measures for r in executor.submitted if r.limit == 20 and r.policy} == {("flow", "cost", "nll", "acc")}
    assert {r.measures for r in executor.submitted if r.limit == 20 and not r.policy} == {("flow", "cost")}
    assert not any("flow" in member.search for member in front.members)


def test_a_screen_of_another_pass_makes_that_alone():
    """Only what comes of the pass it needs anyway, and what no pass is needed for."""
    executor, log = FakeExecutor(), FakeLog()
    passes = {"flow": "given", "nll": "given", "acc": "own 64"}
    run(make_plan(rungs=(screen(20),), trials=6, passes=passes), executor, log)
    assert {r.measures for r in executor.submitted if r.limit == 20 and r.policy} == {("flow", "cost", "nll")}
    run(
        make_plan(rungs=(screen(20),), trials=6, passes=passes | {"nll": "seconds"}), again := FakeExecutor(), FakeLog()
    )
    assert {r.measures for r in again.submitted if r.limit == 20 and r.policy} == {("flow", "cost")}


def test_at_capacity_nothing_is_looked_at_twice():
    log = FakeLog()
    executor = FakeExecutor(capacity=4, newest_first=True)
    run(make_plan(rungs=(screen(20), rung(40)), trials=20, proposals=ToySpace(steps=4)), executor, log)
    asked = [(r.policy, r.split, r.limit, r.measures) for r in executor.submitted]
    assert len(asked) == len(set(asked))
    assert any(r.cached and r.state == "partial" for r in log.settled)


def test_rounds_repeat_bit_for_bit():
    def settled(newest_first):
        log = FakeLog()
        executor = FakeExecutor(capacity=3, newest_first=newest_first)
        run(make_plan(rungs=(rung(EIGHTH),), synchronous=True), executor, log)
        return [(r.digest, r.state, r.reason) for r in log.settled]

    assert settled(True) == settled(False)


def test_fronts_by_constrained_domination():
    # (violation, two objectives): the feasible first, whatever their objectives.
    front = [(0.0, 1.0, 3.0), (0.0, 3.0, 1.0)]
    assert better((0.0, 2.0, 2.0), front) == 0
    assert better((0.0, 3.0, 3.0), front) == 2
    assert better((0.1, 0.0, 0.0), front) == 2
    assert better((0.1, 9.0, 9.0), [*front, (0.2, 0.0, 0.0)]) == 2
    assert better((0.3, 9.0, 9.0), [*front, (0.2, 0.0, 0.0)]) == 3
    assert better((0.0, 1.0, 3.0), front) == 0, "its equal is no better"
    assert better((0.0, 1.0, 1.0), []) == 0


def test_a_full_measurement_is_cut_to_the_rungs_records():
    at, policy = rung(30), reference(0.6, 0.4).candidate.canonical
    whole, part = (
        measure(EvalRequest(None, "search", at.measures)),
        measure(EvalRequest(None, "search", at.measures, 30)),
    )
    full = measure(EvalRequest(policy, "search", at.measures))
    there = measure(EvalRequest(policy, "search", at.measures, 30))
    assert cut(full, at, part, whole) == pytest.approx(dict(there.values))
    assert violation(at.constraints, there.values, part) == pytest.approx(
        max(0.0, 0.9 - there.values["acc"] / part.values["acc"])
    )


def test_before_a_few_are_known_nothing_is_dropped():
    at = rung(30)
    base = measure(EvalRequest(None, "search", at.measures, 30))
    standings = Standings((at,), (base,), base)
    verdicts = [standings.judge(0, str(i), {"cost": i, "nll": i, "acc": base.values["acc"]}).promoted for i in range(5)]
    assert verdicts == [True, True, True, False, False]


@pytest.mark.parametrize("capacity", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_no_more_is_spent_than_the_trials(capacity, seed):
    log = FakeLog()
    rungs = (rung(EIGHTH), rung(4 * EIGHTH))
    run(make_plan(rungs=rungs, trials=9, seed=seed), FakeExecutor(capacity=capacity), log)
    spent = sum(r.share for r in log.settled[1:] if r.state in ("complete", "partial") and not r.cached)
    assert 9 - 1 < spent <= 9
