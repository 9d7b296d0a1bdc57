"""Certification from the search front to the verdicts: what is decided before the holdout is looked at, and by what."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from search_support import (
    ACCURATE,
    FakeExecutor,
    FakeLog,
    Killed,
    constraint,
    fresh,
    make_plan,
    measure,
    reference,
    run,
)

from autoprune.ports import Measured, Measurement
from autoprune.search import pareto
from autoprune.search.certify import SEQUENCE_BROKEN, certify, judge, sequence, standing
from autoprune.search.remarks import looks
from autoprune.search.sizing import images_for, observed_need


def on_holdout(change):
    """The toy's measurements, with those of policies on the holdout changed."""

    def answer(request):
        found = measure(request)
        return found if request.split == "search" or request.policy is None else change(found)

    return answer


def costs_reversed(found):
    return replace(found, values={**found.values, "cost": 1 - found.values["cost"]})


# ------------------------------------------------------------------------------------ decided on the search split alone
def test_order_and_selection_do_not_look_at_the_holdout():
    plain, reversed_ = FakeExecutor(), FakeExecutor(answer=on_holdout(costs_reversed))
    log = FakeLog()
    run(make_plan(trials=20), plain)
    front = run(make_plan(trials=20), reversed_, log)
    asked = [[r.policy for r in e.submitted if r.split == "holdout"] for e in (plain, reversed_)]
    assert asked[0] == asked[1]
    finalists = [r.canonical for r in sequence(pareto.search_front(log.settled, make_plan().objectives), ["cost"])]
    assert asked[0] == [None, *finalists], "the unpruned model, then dearest first by what the search knows"
    certified = [m for m in front.members if m.constraints[ACCURATE.text] == "certified"]
    assert front.selected is not None
    assert front.selected.search["cost"] == min(m.search["cost"] for m in certified)


def test_the_holdout_cannot_change_its_own_size():
    """`holdout: auto` follows from the search split: other outcomes on the holdout, the same records asked for."""

    def wrong(found):
        return replace(found, samples={**found.samples, "acc": tuple(1 - v for v in found.samples["acc"])})

    limits = []
    for change in (lambda found: found, wrong):
        executor = FakeExecutor(answer=on_holdout(change))
        run(make_plan(trials=8, holdout_auto=True), executor)
        limits.append({r.limit for r in executor.submitted if r.split == "holdout"})
    assert limits[0] == limits[1]
    assert len(limits[0]) == 1
    assert None not in limits[0]


def test_without_finalists_no_size_follows():
    assert observed_need([ACCURATE], [], measure(make_plan().request(None, "search")), 0.95) is None


def test_a_look_that_was_cut_short_is_counted():
    log, executor = FakeLog(), FakeExecutor()

    def die(request):
        if request.split == "holdout":
            raise Killed("the first look")
        return measure(request)

    executor.answer = die
    with pytest.raises(Killed):
        run(make_plan(), executor, log)
    assert log.holdout_uses == 1
    run(make_plan(), FakeExecutor(), log)
    assert log.holdout_uses == 2


def test_a_holdout_looked_at_again_says_so():
    """More trials until something certifies is optional stopping; the same front again is no other look."""
    log = FakeLog()
    fronts = [run(make_plan(trials=trials), FakeExecutor(), log) for trials in (8, 8, 24)]
    assert [front.holdout_uses for front in fronts] == [1, 1, 2]
    assert [bool(looks(front.holdout_uses)) for front in fronts] == [False, False, True]
    assert fronts[2].to_json()["holdout_uses"] == 2


# ----------------------------------------------------------------------------------------------------- the sequence
def test_one_that_fails_leaves_the_cheaper_ones_undecided():
    """The dearest finalist is wrong about everything on the holdout; those behind it are as good as ever."""
    log = FakeLog()
    run(make_plan(trials=20), log=log)
    dearest = sequence(pareto.search_front(log.settled, make_plan().objectives), ["cost"])[0]

    def answer(request):
        found = measure(request)
        if request.split == "search" or request.policy != dearest.canonical:
            return found
        wrong = (0.0,) * len(found.images)
        return replace(found, values={**found.values, "acc": 0.0}, samples={**found.samples, "acc": wrong})

    front = run(make_plan(trials=20), FakeExecutor(answer=answer))
    states = [m.constraints[ACCURATE.text] for m in front.members]
    assert states[0] == "violated"
    assert set(states[1:]) <= {"undecided", "violated"}
    assert "undecided" in states
    assert front.selected is None
    assert any(SEQUENCE_BROKEN in line for line in front.explanation)
    good = run(make_plan(trials=20))
    assert [m.constraints[ACCURATE.text] for m in good.members].count("certified") > 1


def at_the_bound(rng, images, policies):
    """A baseline, and policies that are right on 0.9 of what the baseline is right on, in expectation."""
    base = rng.random(images) < 0.9
    lost = [base & (rng.random(images) >= 0.9) for _ in range(policies)]
    numbers = tuple(range(images))

    def measured(right):
        values = tuple(right.astype(float))
        return Measurement({"acc": float(np.mean(values))}, {"acc": values}, numbers)

    return measured(base), [measured(base & ~gone) for gone in lost]


def test_the_sequence_keeps_the_family_wise_error():
    """Six policies exactly on the bound: tested each by itself some certificate is false far more often than 5 %."""
    rng, runs = np.random.default_rng(11), 120
    together = apart = 0
    for _ in range(runs):
        base, policies = at_the_bound(rng, 150, 6)
        together += any(standing(v) == "certified" for v in certify([ACCURATE], policies, base, 0.95))
        apart += any(judge(ACCURATE, p, base, 0.95).state == "certified" for p in policies)
    assert together / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert apart / runs > 0.1


# -------------------------------------------------------------------------------------------------------- clusters
def test_records_of_one_image_are_one_observation():
    """Four records with the same outcome on each of 60 images tell what one record on each tells."""
    rng = np.random.default_rng(5)
    base, own = (tuple((rng.random(60) < p).astype(float)) for p in (0.95, 0.9))

    def measured(values, copies):
        many = tuple(v for v in values for _ in range(copies))
        images = tuple(i for i in range(60) for _ in range(copies))
        return Measurement({"acc": float(np.mean(many))}, {"acc": many}, images)

    one, four = (judge(ACCURATE, measured(own, n), measured(base, n), 0.95) for n in (1, 4))
    assert four.lower == pytest.approx(one.lower)
    assert four.upper == pytest.approx(one.upper)
    assert four.certifiable == pytest.approx(one.certifiable)
    apart = replace(measured(own, 4), images=tuple(range(240)))
    assert judge(ACCURATE, apart, replace(measured(base, 4), images=apart.images), 0.95).lower > four.lower + 0.01


def test_a_holdout_of_one_image_certifies_nothing():
    def alone(request):
        found = measure(request)
        return replace(found, images=(0,) * len(found.images)) if request.split == "holdout" else found

    front = run(make_plan(), FakeExecutor(answer=alone))
    assert {m.constraints[ACCURATE.text] for m in front.members} == {"undecided"}
    assert any("an interval needs at least 2" in line for line in front.explanation)


# ------------------------------------------------------------------------------------------------ the size that is said
@pytest.mark.parametrize("scale", [0.9, 0.95])
def test_the_size_said_before_the_search_is_one_that_certifies(scale):
    """As `Prepared.holdout_remark` has it: discordance twice the loss that is allowed. A policy that spends half of the
    allowed loss is then certified about four times in five; with a third of the images far less often."""
    goal, lost = constraint("acc", ">=", scale), 1 - scale
    needed = images_for(goal, 1.0, 2 * lost, 0.95)
    assert needed is not None

    def share(images):
        rng, hits = np.random.default_rng(2), 0
        for _ in range(150):
            draw, accuracy = rng.random(images), 0.9
            fewer, more = (2 * lost + lost * accuracy / 2) / 2, (2 * lost - lost * accuracy / 2) / 2
            base, own = draw < accuracy, (draw < accuracy - fewer) | (draw > 1 - min(more, 1 - accuracy))
            made = [
                Measurement({"acc": float(np.mean(x))}, {"acc": tuple(x.astype(float))}, tuple(range(images)))
                for x in (own, base)
            ]
            hits += judge(goal, *made, 0.95).state == "certified"
        return hits / 150

    assert 0.6 <= share(needed) <= 0.97
    assert share(needed // 3) < share(needed) - 0.2


# ------------------------------------------------------------------------------------------------------- NaN and Inf
def spoiled(label, number, sample):
    def answer(request):
        found = measure(request)
        if sample:
            broken = {**found.samples, label: (*found.samples[label][:-1], number)}
            return Measured(request, replace(found, samples=broken))
        return Measured(request, replace(found, values={**found.values, label: number}))

    return answer


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("label", "sample"), [("cost", False), ("nll", False), ("acc", False), ("nll", True), ("acc", True)]
)
def test_what_is_no_number_is_a_failed_trial_and_never_a_value(label, sample, number):
    log = FakeLog()
    plan = make_plan(trials=6, references=(reference(0.8, 0.4),))
    front = run(plan, FakeExecutor(script={3: spoiled(label, number, sample)}), log)
    (failed,) = [r for r in log.settled if r.state == "failed"]
    assert failed.reason == f"non_finite: {label} is NaN or infinite"
    assert (failed.values, failed.constraints) == ({}, {})
    assert failed.evaluation_key not in log.evaluations
    assert len(fresh(log)) == 6, "it does not count as a trial"
    json.dumps(front.to_json(), allow_nan=False)


def test_what_is_no_number_on_the_holdout_is_no_verdict():
    def broken(found):
        return replace(found, values={**found.values, "acc": math.nan})

    front = run(make_plan(trials=6), FakeExecutor(answer=on_holdout(broken)))
    assert front.members == ()
    assert any("could not be measured on the holdout (non_finite: acc" in line for line in front.explanation)
