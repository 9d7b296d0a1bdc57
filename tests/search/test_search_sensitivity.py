"""The strategy `sensitivity` on a model whose damage is a known sum: the optimum is found, noise and failures bend it
little, a kill repeats nothing."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import optuna
import pytest
from additive_support import DEPTH, TOKENS, Model, damage, plan, verified, weight
from search_support import FakeLog, Killed, constraint, fresh, objective, run
from space_support import proposals

from autoprune.errors import BadInput
from autoprune.policy.budget import rounded
from autoprune.ports import EvalRequest, Measurement
from autoprune.search.forms import forms, reach
from autoprune.search.verifying import halved


def best(budget: Fraction, keeps: set[Fraction]) -> float:
    """The least damage of all schedules with these keeps within a budget, by looking at every one."""
    falling = sorted(keeps | {Fraction(1)}, reverse=True)
    found = math.inf
    for levels in combinations_with_replacement(falling, DEPTH - 1):
        if 1 + sum(levels) <= budget * DEPTH:
            cut = [(a, b, layer) for layer, (a, b) in enumerate(zip((1, *levels), levels, strict=False), 1) if a != b]
            found = min(found, sum(weight(layer) * float(1 / b - 1 / a) for a, b, layer in cut))
    return found


def test_the_known_optimum_of_every_budget_is_found():
    log = FakeLog()
    front = run(plan(), Model().executor(), log)
    found = verified(log)
    assert 6 <= len(found) <= 8
    keeps = {keep for schedule in found for _, keep in schedule.steps}
    for schedule in found:
        assert damage(schedule) == pytest.approx(best(schedule.budget(TOKENS), keeps))
    budgets = [float(schedule.budget(TOKENS)) for schedule in found]
    assert 0.25 <= min(budgets) < 0.3
    assert 0.65 < max(budgets) <= 0.7
    assert front.members
    assert sum(r.share for r in log.settled if r.phase == "table") <= 10, "a quarter of the trials"
    assert {r.state for r in log.settled if r.phase == "table"} == {"partial"}


def test_noise_bends_it_little():
    log = FakeLog()
    run(plan(), Model(noise=0.5).executor(), log)
    found = verified(log)
    keeps = {keep for schedule in found for _, keep in schedule.steps}
    for schedule in found:
        assert damage(schedule) <= 1.15 * best(schedule.budget(TOKENS), keeps)


def test_schedules_are_asked_where_the_constraint_ends():
    log = FakeLog()
    run(plan(constraints=(constraint("logit_kl", "<=", 0.0, 1.2),)), Model().executor(), log)
    values = sorted(damage(s) for s in verified(log))
    edge = [v for v in values if 1.0 < v < 1.4]
    assert values[0] < 1.0
    assert values[-1] > 1.6
    assert len(edge) >= 2


def test_what_cannot_be_measured_is_left_out():
    log = FakeLog()
    run(plan(), Model(broken=lambda s: s.steps[0][0] == 4).executor(), log)
    assert any(r.state == "failed" for r in log.settled if r.phase == "table")
    found = verified(log)
    assert len(found) >= 5
    assert all(s.steps[0][0] != 4 for s in found)


def test_a_bound_on_the_budget_rules_out_no_entry_and_no_schedule_exceeds_it():
    log = FakeLog()
    run(plan(constraints=(constraint("budget", "<=", 0.4),)), Model().executor(), log)
    assert {r.state for r in log.settled if r.phase == "table"} == {"partial"}
    assert max(s.budget(TOKENS) for s in verified(log)) <= Fraction(2, 5)


def test_the_rest_of_the_trials_is_sampled_from_what_was_found():
    log = FakeLog()
    run(plan(trials=8, options={"then": "bayesian", "verify": 3}), Model().executor(), log)
    phases = [r.phase for r in fresh(log)]
    assert phases[:3] == ["verify"] * 3
    assert set(phases[3:]) == {"bayesian"}
    assert sum(r.share for r in log.settled if r.phase and not r.cached) == pytest.approx(8, abs=1)


def test_more_trials_extend_the_table():
    log, model = FakeLog(), Model()
    for trials in (16, 40):
        run(plan(trials=trials), model.executor(), log)
    once = FakeLog()
    run(plan(), Model().executor(), once)
    asked = [(r.digest, r.limit) for r in log.settled if r.phase == "table"]
    assert len(asked) == len(set(asked))
    assert set(asked) == {(r.digest, r.limit) for r in once.settled if r.phase == "table"}
    keys = [(r.policy, r.split, r.limit) for r in model.asked]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(("spot", "time"), [("before settle", 4), ("after remember", 15), ("after settle", 25)])
def test_a_killed_search_asks_nothing_twice(spot, time):
    storage, model = optuna.storages.InMemoryStorage(), Model()
    log = FakeLog(kill_at=(spot, time))
    with pytest.raises(Killed):
        run(plan(storage=storage), model.executor(), log)
    log.kill_at = None
    run(plan(storage=storage), model.executor(), log)
    keys = [(r.policy, r.split, r.limit) for r in model.asked]
    assert len(keys) == len(set(keys))
    whole = FakeLog()
    run(plan(), Model().executor(), whole)
    assert verified(log) == verified(whole)


def test_costs_alone_say_nothing_of_damage():
    with pytest.raises(BadInput, match="nothing says what pruning may lose"):
        run(plan(objectives=(objective("budget"),), constraints=()), Model().executor())


def test_forms_differ_in_what_they_choose_by():
    class Study:
        proposals = proposals("logistic", DEPTH, TOKENS)
        objectives = (objective("logit_kl"),)
        known = staticmethod(lambda *phases: [])

    task: Any = Study()
    found = forms(task, 4)
    assert len(found) == 2
    assert len(forms(task, 1)) == 1
    within = reach(task.proposals)
    assert (float(within.low), float(within.high)) == pytest.approx((0.15, 0.7), abs=0.02)
    assert 0 < within.keep < Fraction(1, 2)
    assert rounded(within.keep, TOKENS) >= 1


def test_the_better_form_gets_the_table():
    class Preferring(Model):
        """Text attention halves the damage."""

        def __call__(self, request: EvalRequest) -> Measurement:
            made = super().__call__(request)
            if request.policy is None or '"text"' not in request.policy:
                return made
            kl = tuple(v / 2 for v in made.samples["logit_kl"])
            values = {**made.values, "logit_kl": float(np.mean(kl))}
            return Measurement(values, {"logit_kl": kl}, made.images, made.records)

    log = FakeLog()
    run(plan("logistic", trials=16), Preferring().executor(), log)
    assert all('"text"' in r.canonical for r in fresh(log) if r.phase == "verify")
    tables = [r.canonical for r in log.settled if r.phase == "table"]
    assert sum('"text"' in c for c in tables) > sum('"last"' in c for c in tables) > 0


def test_budgets_are_halved_where_feasible_ones_end():
    known = {0.1: False, 0.2: False, 0.4: True, 0.8: True}
    assert halved(known, 1) == pytest.approx([math.sqrt(0.08)])
    assert all(b > 0.2 for b in halved(known, 3))
    assert halved({0.5: True}, 2) == []
    assert len(halved({0.1: False, 0.2: False}, 1)) == 1


@pytest.mark.parametrize("space", ["two_stage_mixed", "g_search", "aim", "fastv", "mixed", "divprune", "btp"])
def test_every_kind_of_space_has_a_table_and_schedules(space):
    log = FakeLog()
    run(plan(space, constraints=()), Model().executor(), log)
    found = verified(log)
    assert len(set(found)) == len(found) >= 3
    budgets = [float(schedule.budget(TOKENS)) for schedule in found]
    assert max(budgets) > 1.5 * min(budgets)
    assert all(r.state in ("complete", "partial") for r in log.settled), [r.reason for r in log.settled]


@pytest.mark.parametrize("nth", [6, 12])
def test_a_table_that_was_interrupted_goes_on_in_its_order(nth):
    """The trials pay for little more than the table: what is left pays for what is left of it, not for all again."""

    def settled(log: FakeLog) -> list[tuple[int, str]]:
        return [(r.number, r.digest) for r in log.settled]

    given = {"trials": 6, "options": {"share": 0.9, "verify": 1}}
    whole, log = FakeLog(), FakeLog(kill_at=("after settle", nth))
    run(plan(**given), Model().executor(), whole)
    with pytest.raises(Killed):
        run(plan(**given), Model().executor(), log)
    log.kill_at = None
    run(plan(**given), Model().executor(), log)
    assert settled(log) == settled(whole)
