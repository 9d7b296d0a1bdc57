"""The default strategy: its split, what it finds where the optimum is known, and that it goes on after a kill."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from layered_support import Layered, layered_plan, searched
from search_support import FakeExecutor, FakeLog, Killed, fresh, make_plan, run

from autoprune.search import pareto

NEEDS = (1.0, 0.9, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1)


def plan(strategy: str = "auto", **changes: Any) -> Any:
    shares = {"prepare": 0.25, "refine": 0.25} if strategy == "auto" else {}
    return layered_plan("p_sigmoid", strategy, changes.pop("options", shares), **{"trials": 24, **changes})


def volume(log: FakeLog) -> float:
    """Dominated by what was found, seen from the unpruned model and a loss of 2 beyond it."""
    points = [(r.values["budget"], r.values["nll"]) for r in log.settled if r.state == "complete"]
    return pareto.hypervolume([p for p in points if p[0] < 1], (1.0, 4.0))


@pytest.fixture(scope="module")
def found() -> FakeLog:
    return searched(Layered(NEEDS), plan())


def test_every_phase_gets_its_part(found):
    spent: dict[str, float] = {}
    for record in found.settled[1:]:
        if record.state in ("complete", "partial") and not record.cached:
            spent[record.phase] = spent.get(record.phase, 0) + record.share
    assert set(spent) == {"greedy", "ladder", "bayesian", "refine"}, "the toy's measure is not a smooth one by name"
    assert sum(spent.values()) == pytest.approx(24, abs=1)
    assert spent["refine"] == pytest.approx(6, abs=1)
    assert spent["greedy"] + spent["ladder"] <= 7


def test_it_says_how_the_trials_are_shared_out():
    front = run(plan(trials=24), FakeExecutor(answer=Layered(NEEDS).measure))
    assert front.explanation[0].startswith(
        "auto: 24 trials: about 6 for a greedy ladder, about 12 Bayesian, 6 to refine"
    )


def test_it_finds_schedules_of_which_half_the_layers_keep_their_own(found):
    toy = Layered(NEEDS)
    distinct = [len(set(toy.schedule(r.canonical).layers)) for r in fresh(found) if r.phase == "refine"]
    assert max(distinct) >= len(NEEDS) / 2


@pytest.mark.parametrize("rival", ["random", pytest.param("bayesian", marks=pytest.mark.full)])
def test_it_beats_what_it_is_made_of(found, rival):
    assert volume(found) > volume(searched(Layered(NEEDS), plan(rival)))


def test_with_few_trials_everything_is_sampled():
    log = searched(Layered(NEEDS), plan(trials=8))
    assert {r.phase for r in fresh(log)} == {"bayesian"}


def test_a_space_where_no_schedule_can_stand_is_sampled():
    log = FakeLog()
    run(layered_plan("todre", "auto", {"prepare": 0.5}, trials=12), FakeExecutor(answer=Layered(NEEDS).measure), log)
    assert {r.phase for r in fresh(log)} == {"bayesian"}


def test_a_study_of_costs_alone_is_sampled():
    log = FakeLog()
    only = layered_plan("p_sigmoid", "auto", {"prepare": 0.5}, trials=14)
    changed = type(only)(**{**only.__dict__, "objectives": only.objectives[:1], "measures": ("budget",)})

    def answer(request: Any) -> Any:
        made = Layered(NEEDS).measure(request)
        return type(made)({"budget": made.values["budget"]}, {}, made.images, made.records)

    run(changed, FakeExecutor(answer=answer), log)
    assert {r.phase for r in fresh(log)} == {"bayesian"}


@pytest.mark.parametrize("time", [5, 13])
def test_after_a_kill_nothing_is_measured_twice(time):
    storage, toy = optuna.storages.InMemoryStorage(), Layered(NEEDS)
    log, executor = FakeLog(kill_at=("after remember", time)), FakeExecutor(answer=toy.measure)
    with pytest.raises(Killed):
        run(plan(storage=storage, trials=14), executor, log)
    log.kill_at = None
    run(plan(storage=storage, trials=14), executor, log)
    asked = [(r.policy, r.split, r.limit) for r in executor.submitted]
    assert len(asked) == len(set(asked))
    assert sum(r.share for r in log.settled[1:] if r.state in ("complete", "partial") and not r.cached) > 13


def test_the_toy_of_the_driver_can_be_searched_too():
    assert run(make_plan(strategy="auto", trials=14)).trials["complete"] == 14
