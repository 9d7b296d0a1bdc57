"""What the driver promises a strategy: answers in order, nothing measured twice, parts of a trial, resuming."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest
from search_support import (
    ACCURATE,
    LABELS,
    RECORDS,
    FakeExecutor,
    FakeLog,
    Killed,
    ToySpace,
    Watcher,
    constraint,
    fresh,
    lost,
    make_plan,
    measure,
    oom,
    run,
)

from autoprune.errors import BadInput
from autoprune.ports import EvalRequest
from autoprune.search import strategy
from autoprune.search.strategy import Answer, Options, Probe, Probes, Sample, Task, Tell

HALF = RECORDS["search"] // 2


def point(x: float, y: float = 0.5, mode: str = "a", **more: Any) -> Probe:
    return Probe(values={"x": x, "y": y, "mode": mode}, **more)


def outside(x: float, **more: Any) -> Probe:
    """A policy that the toy space does not have."""
    return Probe(document={"name": "mine", "x": x, "y": 0.5, "mode": "c"}, **more)


@pytest.fixture
def scripted(monkeypatch):
    """Register the strategy `scripted`, made of the given steps; the answers to each are kept in the returned list."""

    def register(*steps: Any) -> list[list[Answer]]:
        given: list[list[Answer]] = []

        def follow(task: Task, options: Options):
            for step in steps:
                given.append(list((yield step)))

        info = strategy.StrategyInfo("scripted", Options, follow, "", "")
        strategy.load_strategies()
        monkeypatch.setitem(strategy._STRATEGIES, "scripted", info)
        return given

    return register


def plan(**changes: Any) -> Any:
    return make_plan(**{"strategy": "scripted", "references": (), **changes})


@pytest.mark.parametrize("capacity", [1, 3])
def test_answers_come_in_the_order_of_the_probes(scripted, capacity):
    probes = [point(0.9), outside(0.8), point(0.7, mode="b"), point(0.9)]
    answers = scripted(Probes("ladder", probes))
    log, executor = FakeLog(), FakeExecutor(capacity=capacity, newest_first=True)
    run(plan(), executor, log)
    assert [a.values["cost"] for a in answers[0]] == pytest.approx([0.7, 0.65, 0.6, 0.7])
    assert all(a.state == "complete" for a in answers[0])
    assert [a.probe for a in answers[0]] == probes
    assert len(fresh(log)) == 3, "the repeated point is measured once"
    assert {r.phase for r in fresh(log)} == {"ladder"}


@pytest.mark.parametrize("trials", [16, 3])
def test_probes_that_begin_alike_are_measured_one_after_the_other(scripted, monkeypatch, trials):
    monkeypatch.setattr("autoprune.search.driver.prefix_key", lambda canonical: json.loads(canonical)["mode"])
    probes = [point(0.9), point(0.8, mode="b"), point(0.7), point(0.6, mode="b")]
    scripted(Probes("ladder", probes))
    log = FakeLog()
    run(plan(trials=trials), log=log)
    order = "".join(r.params["mode"] for r in fresh(log))
    assert order == ("aabb" if trials == 16 else "aba"), "as asked where not all can be measured"


def test_the_sampler_learns_of_probes_that_the_space_has(scripted):
    scripted(Probes("ladder", [point(0.9), outside(0.8), Probe(document={"x": 0.6, "y": 0.4, "mode": "a"})]))
    log = FakeLog()
    run(plan(), log=log)
    assert [r.sampler_number is not None for r in fresh(log)] == [True, False, True]


def test_what_cannot_be_a_policy_is_answered_and_costs_nothing(scripted):
    answers = scripted(Probes("ladder", [Probe(document={"y": 1}), point(0.9)]))
    log = FakeLog()
    run(plan(), log=log)
    assert [a.state for a in answers[0]] == ["infeasible", "complete"]
    assert answers[0][0].reason == "a toy needs an x"
    assert len(fresh(log)) == 1


def test_failures_and_losses_are_answers_too(scripted):
    answers = scripted(Probes("ladder", [point(0.9), point(0.8), point(0.7)]))
    executor = FakeExecutor(
        script={1: oom, 2: lost, 3: lost, 4: lost}
    )  # 0 is the baseline; a loss is tried again twice
    run(plan(), executor)
    assert [a.state for a in answers[0]] == ["failed", "failed", "complete"]
    assert [a.reason.split(":")[0] for a in answers[0]] == ["oom", "lost", ""]


def test_part_of_the_records_is_part_of_a_trial_and_never_on_a_front(scripted):
    rung = [point(x / 10, limit=HALF) for x in range(4, 10)]
    answers = scripted(Probes("rung", rung), Probes("full", [point(0.95)]))
    log, executor = FakeLog(), FakeExecutor()
    front = run(plan(trials=4), executor, log)
    assert [a.state for a in answers[0]] == ["partial"] * 6
    assert all(a.values["acc"] != b.values["acc"] for a, b in zip(answers[0], answers[0][1:], strict=False))
    assert len(answers[1]) == 1, "six halves are three trials: there is room for one more"
    assert [r.share for r in log.settled if r.phase == "rung"] == [0.5] * 6
    assert [m.search["cost"] for m in front.members] == [pytest.approx(0.725)]
    limits = [(r.limit, r.policy is None) for r in executor.submitted if r.split == "search"]
    assert limits.count((HALF, True)) == 1, "the unpruned model is measured on the same part, once"


def test_a_full_evaluation_pays_for_what_its_probe_left(scripted):
    answers = scripted(Probes("rung", [point(0.9, limit=HALF)]), Probes("full", [point(0.9), point(0.8)]))
    log, executor = FakeLog(), FakeExecutor()
    run(plan(trials=4), executor, log)
    assert [(r.phase, r.share) for r in log.settled[1:]] == [("rung", 0.5), ("full", 0.5), ("full", 1.0)]
    known = [None if r.known is None else len(r.known.images) for r in executor.submitted if r.split == "search"]
    assert known == [None, RECORDS["search"], None, HALF, None], "baseline, its half, the probe, the rest, another one"
    whole = measure(EvalRequest(answers[1][0].candidate.canonical, "search", LABELS))
    assert answers[1][0].values == whole.values
    assert log.evaluations[log.settled[1].evaluation_key].fresh == HALF, "the store keeps the look"


def test_a_probe_after_a_full_evaluation_costs_nothing(scripted):
    scripted(Probes("full", [point(0.9)]), Probes("rung", [point(0.9, limit=HALF)]))
    log = FakeLog()
    run(plan(trials=4), log=log)
    assert [(r.state, r.share, r.cached) for r in log.settled[1:]] == [
        ("complete", 1.0, False),
        ("partial", 0.0, False),
    ]


PASSES = {"nll": "answers", "acc": "own answers of acc"}


def test_a_probe_measures_what_is_read_and_what_comes_with_it(scripted):
    """The second pass is not made; nothing is said of the constraint on what it would have measured."""
    probes = [point(0.9, limit=HALF, measures=("nll",))]
    answers = scripted(Probes("rung", probes), Probes("full", [point(0.9)]))
    log, executor = FakeLog(), FakeExecutor()
    run(plan(trials=4, passes=PASSES), executor, log)
    look = next(r for r in executor.submitted if r.limit == HALF and r.policy is not None)
    assert look.measures == ("nll", "cost")
    assert set(answers[0][0].values) == {"nll", "cost"}
    assert (answers[0][0].slacks, answers[0][0].feasible) == ({}, True)
    assert set(answers[1][0].slacks) == {ACCURATE.text}
    assert set(answers[1][0].values) == set(LABELS)


def test_a_probe_that_reads_more_than_an_earlier_one_is_measured(scripted):
    looks = [point(0.9, limit=HALF, measures=(label,)) for label in ("nll", "acc", "nll")]
    answers = scripted(*(Probes("rung", [look]) for look in [*looks, point(0.9, limit=HALF)]))
    executor = FakeExecutor()
    run(plan(trials=4, passes=PASSES), executor)
    assert [set(step[0].values) for step in answers] == [
        {"nll", "cost"},
        {"acc", "cost"},
        {"nll", "cost"},
        set(LABELS),
    ]
    assert [r.measures for r in executor.submitted if r.limit == HALF and r.policy] == [
        ("nll", "cost"),
        ("acc", "cost"),
        LABELS,
    ]


def test_a_full_evaluation_leaves_nothing_out():
    with pytest.raises(ValueError, match="by everything"):
        point(0.9, measures=("nll",))


def test_part_of_the_records_is_measured_whatever_its_costs_miss(scripted):
    answers = scripted(Probes("full", [point(0.9)]), Probes("rung", [point(0.9, limit=HALF)]))
    run(plan(proposals=ToySpace(known=True), constraints=(constraint("cost", "<=", 0.5),)))
    assert [step[0].state for step in answers] == ["infeasible", "partial"]
    assert answers[1][0].slacks["cost <= 0.5 * baseline"] > 0


def test_a_stop_rule_ends_a_strategy_in_the_middle_of_a_step(scripted):
    answers = scripted(Probes("ladder", [point(x / 20) for x in range(10, 20)]), Sample("rest", "random"))
    log = FakeLog()
    front = run(plan(trials=4), log=log)
    assert answers == []
    assert len(fresh(log)) == 4
    assert front.trials["complete"] == 4


def test_a_sample_has_its_share_and_the_next_step_follows(scripted):
    answers = scripted(Sample("one", "random", 3), Probes("two", [outside(0.9)]), Sample("three", "bayesian"))
    log = FakeLog()
    run(plan(trials=9), log=log)
    assert [r.phase for r in fresh(log)] == ["one"] * 3 + ["two"] + ["three"] * 5
    assert len(answers) == 2


def test_what_a_strategy_tells_is_shown_and_kept_with_the_front(scripted):
    scripted(Tell("half for this, half for that"), Probes("two", [point(0.9)]))
    watcher = Watcher()
    front = run(plan(), observer=watcher)
    assert [p.message for p in watcher.seen if p.message] == ["half for this, half for that"]
    assert front.explanation[0] == "half for this, half for that"


def test_a_strategy_that_ends_early_says_so(scripted):
    scripted(Probes("two", [point(0.9)]))
    assert any("nothing more to ask" in line for line in run(plan()).explanation)


def test_raising_trials_goes_on_where_the_phases_were(scripted):
    log = FakeLog()
    steps = [Probes("ladder", [point(0.9), outside(0.8)]), Sample("rest", "random")]
    for trials in (3, 6):
        scripted(*steps)
        run(plan(trials=trials), log=log)
    assert [r.phase for r in fresh(log)] == ["ladder"] * 2 + ["rest"] * 4


@pytest.mark.parametrize("spot", ["before remember", "after remember", "before settle", "after settle"])
@pytest.mark.parametrize("time", [2, 4, 5, 7])
def test_a_killed_strategy_goes_on_and_measures_nothing_twice(scripted, spot, time):
    storage = optuna.storages.InMemoryStorage()  # what outlives the driver

    def steps() -> list[Any]:
        return [
            Probes("rung", [point(0.55, limit=HALF), outside(0.65, limit=HALF)]),
            Probes("ladder", [point(0.9), outside(0.8), point(0.7)]),
            Sample("rest", "random", 2),
        ]

    scripted(*steps())
    whole = FakeLog()
    run(plan(), log=whole)
    log, executor = FakeLog(kill_at=(spot, time)), FakeExecutor()
    with pytest.raises(Killed):
        run(plan(storage=storage), executor, log)
    log.kill_at = None
    answers = scripted(*steps())
    run(plan(storage=storage), executor, log)
    assert [[a.state for a in step] for step in answers] == [["partial"] * 2, ["complete"] * 3, []]
    assert sorted((r.digest, r.limit or 0) for r in fresh_or_part(log)) == sorted(
        (r.digest, r.limit or 0) for r in fresh_or_part(whole)
    )
    asked = [(r.policy, r.split, r.limit) for r in executor.submitted]
    allowed = 1 if spot == "before remember" else 0  # its answer was lost with the driver
    assert len(asked) - len(set(asked)) <= allowed


def fresh_or_part(log: FakeLog) -> list[Any]:
    return [r for r in log.settled if r.origin != "baseline" and r.state in ("complete", "partial") and not r.cached]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [("greedyy", {}, "unknown strategy 'greedyy'"), ("random", {"x": 1}, "strategy random: x: Extra inputs")],
)
def test_unknown_strategies_and_options_are_bad_input(name, options, says):
    with pytest.raises(BadInput, match=says):
        run(make_plan(strategy=name, options=options))
