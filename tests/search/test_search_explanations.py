"""Why a study came out as it did: each explanation on records made for it, and on a searched study."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import get_args

import pytest
from search_support import (
    ACCURATE,
    FakeExecutor,
    FakeLog,
    ToySpace,
    Watcher,
    constraint,
    make_plan,
    measure,
    objective,
    oom,
    parameter,
    run,
)

from autoprune.ports import Measurement, MeasureRequest, TrialRecord
from autoprune.search.explanations import beyond, constant, edges, importance, stages, stopped, violations
from autoprune.search.explanations.evidence import Evidence
from autoprune.search.explanations.watch import Watch
from autoprune.search.holdout import Bench
from autoprune.search.memory import UNREACHABLE
from autoprune.search.stop import StopReason
from autoprune.spec.goals import Constraint


def trial(number, state="complete", slacks=None, params=None, **values):
    """A settled point; its digest is that of the policy the toy space makes of its parameters."""
    digest = f"d{number}" if params is None else ToySpace().candidate(params).digest
    return TrialRecord(
        number, "trial", f"t{number}", state, {}, "{}", digest, params or {}, values, constraints=slacks or {}
    )


def evidence(records, members=(), reason="trials", **changes):
    baseline = Measurement({"acc": 1.0, "cost": 1.0, "nll": 1.0}, {}, ())
    return Evidence(make_plan(**changes), records, baseline, members, reason)


# -------------------------------------------------------------------------------------------------------- stop reasons
def test_every_reason_to_stop_has_words():
    assert set(get_args(StopReason)) <= set(stopped.WHY)


def test_the_stop_is_always_said():
    front = run(make_plan(trials=5))
    assert front.explanations["stopped"] == {
        "reason": "trials",
        "trials": 5,
        "complete": 5,
        "partial": 0,
        "failed": 0,
        "infeasible": 0,
    }
    assert "stopped: all trials are done; 5 of 5 trials complete" in front.explanation
    beside = stopped.explain(evidence([*POINTS, trial(4, "partial")], reason="time"))
    assert beside.lines[0].endswith("; 2 of 16 trials complete, 1 partial, 1 failed, 1 infeasible")
    late = run(make_plan(trials=50, time_limit=0.0))
    assert late.explanations["stopped"]["reason"] == "time"


# -------------------------------------------------------------------------------------------------------------- beyond
EXACT = Constraint("exact_match >= 1.2 * baseline", MeasureRequest("exact_match"), ">=", 1.2, 0.0)


def test_a_bound_beyond_the_measure_is_known_with_the_baseline():
    assert beyond.beyond((EXACT,), {"exact_match": 0.9}) == {EXACT.text: {"bound": pytest.approx(1.08), "limit": 1.0}}
    assert beyond.beyond((EXACT,), {"exact_match": 0.8}) == {}
    below = Constraint("budget <= -1", MeasureRequest("budget"), "<=", 1.0, -1.5)
    assert beyond.beyond((below,), {"budget": 1.0})[below.text]["limit"] == 0.0
    assert beyond.beyond((ACCURATE,), {"acc": 5.0}) == {}, "a measure without ends has none"


def exactly(request):
    found = measure(request)
    return replace(
        found,
        values={**found.values, "exact_match": found.values["acc"]},
        samples={**found.samples, "exact_match": found.samples["acc"]},
    )


def test_a_bound_beyond_the_measure_is_said_before_the_first_trial():
    log, seen, executor = FakeLog(), Watcher(), FakeExecutor(answer=exactly)
    plan = make_plan(constraints=(EXACT,), measures=("cost", "nll", "acc", "exact_match"), trials=4)
    submitted = []

    class Counting(Watcher):
        def update(self, progress):
            seen.update(progress)
            submitted.extend([len(executor.submitted)] if progress.message else [])

    front = run(plan, executor, log, observer=Watch(Counting(), log, plan))
    (said,) = [p.message for p in seen.seen if p.message]
    assert said.startswith(f"no policy can meet '{EXACT.text}': that is 1.1")
    assert submitted == [1], "the baseline alone was measured"
    assert said in front.explanation


# ---------------------------------------------------------------------------------------------------------- violations
CHEAP = constraint("cost", "<=", 0.5)
POINTS = [
    trial(0, slacks={ACCURATE.text: 0.09, CHEAP.text: -0.1}),
    trial(1, slacks={ACCURATE.text: 0.009, CHEAP.text: 0.2}),
    trial(2, "infeasible", slacks={CHEAP.text: 0.3}),
    trial(3, "failed"),
]


def test_an_empty_front_is_counted_and_named():
    found = violations.explain(evidence(POINTS, constraints=(ACCURATE, CHEAP)))
    assert found.data["constraints"][ACCURATE.text] == {
        "judged": 2,
        "missed": 2,
        "rate": 1.0,
        "nearest": {"policy": "t1", "short": 0.009},
    }
    assert found.data["closest"] == "t0"
    text = "\n".join(found.lines)
    assert f"{ACCURATE.text}: missed by 2 of 2 (100 %); nearest miss t1, short by 0.009" in text
    assert f"{CHEAP.text}: missed by 2 of 3 (67 %); nearest miss t1, short by 0.2" in text
    assert "nearest to meeting all: t0" in text
    (line,) = violations.explain(evidence([trial(0, "failed")])).lines
    assert line == "no policy was measured: 1 failed"


def test_budgets_out_of_reach_are_judged_of_all():
    lost = replace(trial(4, "infeasible", slacks={UNREACHABLE: 0.25}), digest="", name="infeasible")
    found = violations.explain(evidence([*POINTS, lost], constraints=(ACCURATE, CHEAP)))
    assert found.data["constraints"][UNREACHABLE] == {
        "judged": 4,
        "missed": 1,
        "rate": 0.25,
        "nearest": {"policy": None, "short": 0.25},
    }
    assert f"  {UNREACHABLE}: missed by 1 of 4 (25 %); nearest miss short by 0.25" in found.lines


def test_misses_are_counted_beside_a_front_too():
    log = FakeLog()
    front = run(make_plan(trials=20), log=log)
    assert front.members
    points = [r for r in log.settled if r.origin != "baseline" and not r.cached]
    missed = [r for r in points if r.constraints[ACCURATE.text] > 0]
    data = front.explanations["violations"]["constraints"][ACCURATE.text]
    assert (data["judged"], data["missed"]) == (len(points), len(missed)) != (20, 0)
    assert data["nearest"]["short"] == min(r.constraints[ACCURATE.text] for r in missed)
    assert front.explanations["violations"]["closest"] is None
    assert not any("no policy met" in line for line in front.explanation)


def test_a_constraint_that_all_meet_needs_no_words():
    met = [trial(0, slacks={ACCURATE.text: -0.1})]
    found = violations.explain(evidence(met, met))
    assert found.lines == ()
    assert found.data["constraints"][ACCURATE.text]["nearest"] is None


# ---------------------------------------------------------------------------------------------------------------- edges
def at(number, x, y, mode="a"):
    return trial(number, params={"x": x, "y": y, "mode": mode}, cost=float(number), nll=-float(number), acc=1.0)


def ranged(**edge):
    x = parameter("x", "float", 0.2, 1.0, edges=edge.get("x", ("0.2", None)))
    return ToySpace(parameters=(x, parameter("y", "float", 0.1, 0.9, edges=("0.1", "0.9")), ToySpace().parameters[2]))


def test_a_front_at_the_end_of_a_range_is_an_edge_hit():
    members = [at(0, 0.2, 0.5), at(1, 0.205, 0.1), at(2, 0.2, 0.6), at(3, 0.7, 0.9)]
    found = edges.explain(evidence(members, members, proposals=ranged()))
    assert found.data == {"x": {"end": "lower", "value": "0.2", "hit": 3, "of": 4}}
    assert found.lines == ("edge hit: x is at its lower end 0.2 in 3 of 4 of the best policies: widen `x` below 0.2",)


def test_an_end_that_cannot_be_widened_is_no_edge_hit():
    members = [at(i, 1.0, 0.9) for i in range(2)]
    found = edges.explain(evidence(members, members, proposals=ranged()))
    assert set(found.data) == {"y"}
    assert "above 0.9" in found.lines[0]


def test_a_parameter_without_an_effect_hits_no_edge():
    class Deaf(ToySpace):
        def candidate(self, values):
            return super().candidate({**values, "x": 0.5})

    deaf = Deaf(parameters=ranged().parameters)
    members = [
        TrialRecord(i, "trial", f"t{i}", "complete", {}, "{}", deaf.candidate(p).digest, p, {"cost": 1.0, "nll": 1.0})
        for i, p in enumerate([{"x": 0.2, "y": 0.3, "mode": "a"}, {"x": 0.2, "y": 0.4, "mode": "a"}])
    ]
    assert edges.explain(evidence(members, members, proposals=deaf)).data == {}


def test_without_a_front_the_best_by_each_objective_are_looked_at():
    records = [at(0, 0.2, 0.5), at(1, 0.5, 0.5), at(2, 0.2, 0.6)]  # the first costs least, the last has the best nll
    found = edges.explain(evidence(records, proposals=ranged()))
    assert found.data["x"] == {"end": "lower", "value": "0.2", "hit": 2, "of": 2}
    assert edges.explain(evidence(records[:1], records[:1], proposals=ranged())).data == {}, "one policy is no pattern"


# ----------------------------------------------------------------------------------------------------------- importance
def points(count, seed=1):
    draw = random.Random(seed)
    for n in range(count):
        x, y = draw.random(), draw.random()
        yield trial(n, params={"x": x, "y": y, "mode": draw.choice("ab")}, cost=x, nll=(y - 0.3) ** 2, acc=1.0)


def test_importance_finds_what_decides():
    goals = (objective("cost"), objective("nll"), objective("acc", "maximize"))
    found = importance.explain(evidence(list(points(40)), objectives=goals))
    assert set(found.data) == {"cost", "nll"}, "nothing decides what is constant"
    assert next(iter(found.data["cost"])) == "x"
    assert next(iter(found.data["nll"])) == "y"
    assert found.data["cost"]["x"] > 0.8
    assert sum(found.data["cost"].values()) == pytest.approx(1.0)
    assert found.lines[0].startswith("what decides cost: x 0.")
    assert importance.explain(evidence(list(points(40)), objectives=goals)) == found, "the same numbers every time"


def test_few_trials_tell_no_importance():
    found = importance.explain(evidence([*points(19), trial(19, cost=1.0)]))
    assert found.data == {"too_few": {"trials": 19, "needed": 20}}
    assert "too few trials (19 of the 20 it takes)" in found.lines[0]


# ------------------------------------------------------------------------------------------------------------- constant
def all_right(request):
    found = measure(request)
    return Measurement(
        {**found.values, "acc": 1.0}, {**found.samples, "acc": (1.0,) * len(found.images)}, found.images, found.records
    )


def test_a_constant_objective_is_warned_of_while_the_search_goes_on():
    log, seen = FakeLog(), Watcher()
    goals = (objective("cost"), objective("acc", "maximize"))
    plan = make_plan(objectives=goals, trials=12)
    front = run(plan, FakeExecutor(answer=all_right), log, observer=Watch(seen, log, plan))
    said = [(p.phase, p.message) for p in seen.seen if p.message]
    assert [phase for phase, _ in said] == ["search"]
    assert "acc is 1 for all 8 measured policies" in said[0][1]
    assert front.explanations["constant"] == {"acc": 1.0}
    assert front.members, "a warning ends nothing"
    assert any("acc is 1 for all 12" in line for line in front.explanation)


def test_objectives_that_differ_or_are_hardly_measured_are_not_constant():
    assert "constant" in run(make_plan(trials=10)).explanations
    assert run(make_plan(trials=10)).explanations["constant"] == {}
    same = [trial(n, acc=1.0) for n in range(7)]
    assert constant.constants(same, (objective("acc"),)) == {}
    assert constant.constants([*same, trial(7, acc=1.0)], (objective("acc"),)) == {"acc": 1.0}
    assert constant.constants([*same, same[0]], (objective("acc"),)) == {}, "one policy twice is one policy"


# --------------------------------------------------------------------------------------------------------- the document
def test_explanations_are_plain_data_in_the_front_document():
    front = run(make_plan(trials=24))
    document = json.loads(json.dumps(front.to_json()))
    assert set(document["explanations"]) == {"stopped", "beyond", "violations", "edges", "constant", "importance"}
    assert type(front).from_json(document) == front
    assert set(document["explanations"]["importance"]) == {"cost", "nll"}


# --------------------------------------------------------------------------------------------------------------- stages
def bench_of(plan, executor, log):
    return Bench(plan, executor, log, lambda: False)


def lacking(stage, x, saves=0.5, **values):
    found = None if stage == 2 else ToySpace().candidate({"x": x, "y": 1.0, "mode": "a"}).canonical
    return stages.Without(stage, f"llm:{stage}", found, saves)


def test_a_stage_is_worth_what_is_lost_without_it():
    plan, log, executor = make_plan(), FakeLog(), FakeExecutor()
    whole = measure(plan.request(ToySpace().candidate({"x": 0.3, "y": 0.5, "mode": "a"}).canonical, "search")).values
    without = [lacking(1, 0.3), lacking(2, 0.0), lacking(3, 0.0)]
    found = stages.explain(plan, bench_of(plan, executor, log), "p", whole, without)
    first, second, third = found.data["stages"]
    direct = measure(plan.request(without[0].canonical, "search")).values
    assert first["without"] == {label: direct[label] for label in ("cost", "nll", "acc")}
    assert first["effect"] == {label: whole[label] - direct[label] for label in ("cost", "nll", "acc")}
    assert second["without"]["cost"] == 1.0, "nothing left of a policy is the unpruned model"
    assert third["missed"] == [ACCURATE.text]
    assert second["missed"] == []
    assert found.lines[2].endswith(f"misses {ACCURATE.text}")
    assert all(r.split == "search" for r in executor.submitted)
    assert executor.distinct() == 3
    assert log.settled == [], "no trials"
    again = stages.explain(plan, bench_of(plan, executor, log), "p", whole, without)
    assert again == found
    assert executor.distinct() == len(executor.submitted) == 3, "remembered like everything else"


def test_of_many_stages_those_that_save_most_are_measured():
    plan, executor = make_plan(), FakeExecutor()
    many = [lacking(n, 0.01 * n, saves=float(n)) for n in range(3, 13)]
    found = stages.explain(plan, bench_of(plan, executor, FakeLog()), "p", {"cost": 0, "nll": 0, "acc": 0}, many)
    assert [s["stage"] for s in found.data["stages"]] == [7, 8, 9, 10, 11, 12]
    assert found.data["not_measured"] == 4
    assert len(executor.submitted) == stages.MOST + 1, "and the baseline"


def test_a_stage_that_cannot_be_measured_has_its_reason():
    plan, executor = make_plan(), FakeExecutor(script={1: oom})
    found = stages.explain(
        plan, bench_of(plan, executor, FakeLog()), "p", {"cost": 0, "nll": 0, "acc": 0}, [lacking(1, 0.5)]
    )
    assert found.data["stages"] == [{"stage": 1, "at": "llm:1", "reason": "not measured: oom: out of memory"}]
    assert found.lines == ("p, stage 1 (llm:1): not measured: oom: out of memory",)


def test_a_stage_with_nothing_to_measure_says_why():
    plan, executor = make_plan(), FakeExecutor()
    idle = stages.Without(1, "llm:1", reason="it has no effect in this policy")
    found = stages.explain(plan, bench_of(plan, executor, FakeLog()), "p", {"cost": 0, "nll": 0, "acc": 0}, [idle])
    assert found.data["stages"] == [{"stage": 1, "at": "llm:1", "reason": "it has no effect in this policy"}]
    assert found.data["not_measured"] == 0
    assert [r.policy for r in executor.submitted] == [None]
