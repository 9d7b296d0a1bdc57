"""Points of the space that a table chooses: where they lie, that they are points, and what auto does with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from additive_support import DEPTH, TOKENS, Model, plan
from search_support import FakeLog, Killed, constraint, fresh, run
from space_support import proposals

from autoprune.search.foreseen import DRAWN, LOOK, LOOKS, Point, drawn, foreseen
from autoprune.search.schedule import Form, Schedule
from autoprune.search.strategies.auto import EARLIER


def auto(trials: int, **changes: Any) -> Any:
    return replace(plan("two_stage_mixed", trials, **changes), strategy="auto", options={})


class Worth:
    """A table that takes what is kept before the last layer to be all that counts."""

    def of_schedule(self, schedule: Schedule) -> float:
        return 1 / float(schedule.at(DEPTH - 1))


def tabled(name: str) -> tuple[Any, Any]:
    space = proposals(name, DEPTH, TOKENS)
    values = {p.name: p.choices[0] if p.kind == "choice" else p.middle for p in space.parameters}
    form = replace(Form.of(space.filled(values), space.depth, space.sites, space.tokens), values=values)
    return SimpleNamespace(proposals=space, seed=1), SimpleNamespace(form=form, table=Worth())


def test_only_what_decides_a_schedule_is_drawn():
    task, table = tabled("two_stage_mixed")
    points = drawn(task, [table])
    assert len(points) > DRAWN / 2
    varied = {name for name in points[0].values if len({p.values[name] for p in points}) > 1}
    assert varied == {"budget", "l1", "l2", "front", "stages[1].keep.of_current"}
    assert [p.values for p in drawn(task, [table])] == [p.values for p in points], "by the study's seed"


def test_a_curve_is_drawn_by_its_parameters():
    task, table = tabled("p_sigmoid")
    points = drawn(task, [table])
    assert len({p.budget for p in points}) > 10
    assert {name for name in points[0].values if len({p.values[name] for p in points}) > 1} == set(points[0].values)


def asked(points: Iterable[Point], trials: float, edge: float, good: Callable[[float], float] = lambda b: 0.0) -> Any:
    """Budgets (looked at, measured), where those of at least `edge` are feasible and `good` says what one loses."""
    baseline = SimpleNamespace(samples={"logit_kl": (0.0,) * 160}, images=tuple(range(160)), values={})
    task = SimpleNamespace(
        baseline=baseline,
        records=160,
        constraints=(constraint("logit_kl", "<=", 0.0, 2.0),),
        objectives=(),
        known=lambda phase: (),
        proposals=None,
    )
    steps, looks, found = foreseen(task, list(points), trials), [], []
    try:
        step = next(steps)
        while True:
            budgets = [probe.values["budget"] for probe in step.probes]
            (looks if step.phase == LOOK else found).append(budgets if step.phase == LOOK else budgets[0])
            answers = [
                SimpleNamespace(measured=True, feasible=b >= edge, values={"logit_kl": good(b)}) for b in budgets
            ]
            step = steps.send(answers)
    except StopIteration:
        return looks, found


def test_budgets_are_halved_towards_the_edge():
    points = [Point({"budget": i / 1000}, i / 1000, abs(i % 5 - 1)) for i in range(80, 601)]
    looks, found = asked(points, 6 * (1 + 3 * 20 / 160), edge=0.3)
    assert len(found) == len(set(found)) == 6
    assert all(round(1000 * b) % 5 == 1 for group in looks for b in group[:3]), "the least harmful ones near a budget"
    assert min(b for b in found if b >= 0.3) < 0.34
    assert max(b for b in found if b < 0.3) > 0.26


def test_the_best_of_those_looked_at_is_measured_in_full():
    points = [Point({"budget": i / 1000}, i / 1000, 0.0) for i in range(80, 601)]
    looks, found = asked(points, 3, edge=0.3, good=lambda b: (1000 * b) % 7)
    assert all(len(group) == LOOKS for group in looks)
    assert [min(group, key=lambda b: (1000 * b) % 7) for group in looks] == found
    assert len({b for group in looks for b in group}) == LOOKS * len(looks), "each once"


def test_no_more_is_spent_than_there_is():
    points = [Point({"budget": i / 1000}, i / 1000, 0.0) for i in range(80, 601)]
    for trials in (1.0, 1.37, 1.38, 4.0):
        assert len(asked(points, trials, edge=0.3)[1]) == int(trials / 1.375)


@pytest.fixture(scope="module")
def searched() -> FakeLog:
    log = FakeLog()
    run(auto(16), Model(noise=0.05).executor(), log)
    return log


def test_auto_measures_points_of_the_space_that_the_table_chose(searched):
    chosen = [r for r in fresh(searched) if r.phase == "foreseen"]
    assert 3 <= len(chosen) <= 7
    names = {p.name for p in proposals("two_stage_mixed", DEPTH, TOKENS).parameters}
    assert all(set(r.params) == names for r in chosen), "so that the sampler learns from them"
    spent = sum(r.share for r in searched.settled[1:] if not r.cached and r.state in ("complete", "partial"))
    assert spent == pytest.approx(16, abs=1)


def test_they_are_better_than_as_many_random_ones(searched):
    best = {phase: min(_weighed(r) for r in fresh(searched) if r.phase == phase) for phase in ("foreseen",)}
    log = FakeLog()
    run(replace(auto(5), strategy="random"), Model(noise=0.05).executor(), log)
    assert best["foreseen"] < min(_weighed(r) for r in fresh(log))


def _weighed(record: Any) -> float:
    """The budget of what is within the constraint."""
    return record.values["budget"] if all(s <= 0 for s in record.constraints.values()) else 1.0


def test_what_refining_knows_does_not_come_after_it():
    assert "refine" not in EARLIER
    assert "rest" not in EARLIER


@pytest.mark.full
def test_killed_at_any_time_it_ends_as_if_it_had_not_been():
    """Long enough for every phase: a phase that read what came after it would go another way the second time."""
    whole = FakeLog()
    run(auto(34, storage=optuna.storages.InMemoryStorage()), Model().executor(), whole)
    phases = [r.phase for r in fresh(whole)]
    assert {"foreseen", "bayesian", "refine"} <= set(phases)
    storage = optuna.storages.InMemoryStorage()
    log = FakeLog(kill_at=("after remember", len(phases) - 1))
    with pytest.raises(Killed):
        run(auto(34, storage=storage), Model().executor(), log)
    log.kill_at = None
    run(auto(34, storage=storage), Model().executor(), log)
    assert [r.phase for r in fresh(log)] == phases
    assert [r.canonical for r in fresh(log)] == [r.canonical for r in fresh(whole)]
