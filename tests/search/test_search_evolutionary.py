"""NSGA-II and -III learn from what others proposed: warm starts, a strategy's probes, a memory that was lost."""

from __future__ import annotations

import optuna
import pytest
from search_support import (
    ACCURATE,
    FakeExecutor,
    FakeLog,
    Killed,
    ToySpace,
    fresh,
    make_plan,
    objective,
    reference,
    run,
)

WARM = tuple(reference(0.5 + 0.05 * i, 0.3 + 0.05 * i) for i in range(8))
"""As many as a population."""
GOALS = (objective("cost"), objective("nll"))


def plan(**changes):
    given = {"strategy": "evolutionary", "references": WARM, "trials": 24, "objectives": GOALS}
    return make_plan(**{**given, **changes})


@pytest.mark.parametrize("goals", [GOALS, (*GOALS, objective("acc", "maximize"))])
def test_warm_starts_are_parents(goals):
    """Children take many of their parents' values as they are; a random point takes none."""
    log = FakeLog()
    run(plan(objectives=goals), log=log)
    warm = {(name, value) for r in log.settled if r.origin == "reference" for name, value in r.params.items()}
    born = [r.params for r in log.settled if r.origin == "trial"][:8]
    inherited = sum((name, params[name]) in warm for params in born for name in ("x", "y"))
    assert inherited >= 4


def generations(made):
    trials = optuna.load_study(study_name=made.study_id, storage=made.storage).trials
    return [trial.system_attrs.get("NSGAIISampler:generation") for trial in trials]


def test_a_lost_memory_goes_on_in_its_generation():
    """Generations, not values: Optuna orders parents another way the first time it selects them."""
    whole, first, second = (plan(storage=optuna.storages.InMemoryStorage()) for _ in range(3))
    run(whole)
    log = FakeLog(kill_at=("after settle", 13))
    with pytest.raises(Killed):
        run(first, log=log)
    log.kill_at = None
    run(second, FakeExecutor(), log)
    assert len(fresh(log)) == 24
    assert generations(second)[:24] == generations(whole)[:24] == [0] * 8 + [1] * 8 + [2] * 8


def test_a_random_push_joins_the_generation():
    """In a space of few points most proposals repeat one; the random ones in between are learnt from."""
    storage, log = optuna.storages.InMemoryStorage(), FakeLog()
    made = plan(storage=storage, references=(), proposals=ToySpace(steps=3), constraints=(ACCURATE,))
    run(made, log=log)
    trials = optuna.load_study(study_name=made.study_id, storage=storage).trials
    assert any(r.cached for r in log.settled)
    assert all("NSGAIISampler:generation" in trial.system_attrs for trial in trials)
