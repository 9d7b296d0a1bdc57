"""The loop: what is asked, what counts, what is told, what stops it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import optuna
import pytest
from search_support import (
    ACCURATE,
    FakeExecutor,
    FakeLog,
    FakePublisher,
    ToySpace,
    Watcher,
    constraint,
    fresh,
    hung,
    lost,
    make_plan,
    measure,
    objective,
    oom,
    parameter,
    reference,
    run,
    with_nan,
)

from autoprune.errors import AutoPruneError, BadInput
from autoprune.ports import Measured
from autoprune.search import pareto
from autoprune.search.driver import run as search
from autoprune.search.errors import Interrupted


def document(front) -> str:
    return json.dumps(front.to_json(), sort_keys=True)


def test_a_seed_fixes_the_front():
    fronts = {document(run(make_plan())) for _ in range(2)}
    assert len(fronts) == 1
    assert document(run(make_plan(seed=8))) not in fronts


def test_a_seed_fixes_what_the_gaussian_process_proposes():
    logs = [FakeLog(), FakeLog()]
    for log in logs:
        run(make_plan(strategy="bayesian", trials=12), log=log)
    first, second = ([r.digest for r in log.settled] for log in logs)
    assert first == second
    random = FakeLog()
    run(make_plan(trials=12), log=random)
    same = [a == b.digest for a, b in zip(first, random.settled, strict=True)]
    assert all(same[:8]), "random until there is something to learn from"
    assert not all(same)


def test_synchronous_batches_do_not_depend_on_the_order_of_arrival():
    plan = make_plan(synchronous=True, strategy="random")
    first, second = FakeLog(), FakeLog()
    one = run(plan, FakeExecutor(capacity=4), first)
    two = run(plan, FakeExecutor(capacity=4, newest_first=True), second)
    assert document(one) == document(two)
    assert [r.digest for r in first.settled] == [r.digest for r in second.settled]


def test_baseline_then_references_then_trials():
    log, executor = FakeLog(), FakeExecutor()
    run(make_plan(), executor, log)
    assert [r.origin for r in log.settled[:4]] == ["baseline", "reference", "reference", "trial"]
    assert log.settled[1].sampler_number == 0, "the space can express the first: it taught the sampler"
    assert log.settled[2].sampler_number is None
    assert executor.submitted[0].policy is None
    assert executor.submitted[0].split == "search"
    assert [r.number for r in log.settled] == list(range(len(log.settled)))


def test_trials_count_distinct_evaluations_without_the_baseline():
    log, executor = FakeLog(), FakeExecutor()
    front = run(make_plan(trials=12), executor, log)
    assert len(fresh(log)) == 12
    assert front.to_json()["trials"] == {"complete": 12, "failed": 0, "running": 0}
    on_search = [r for r in executor.submitted if r.split == "search"]
    assert len(on_search) == 13
    assert len({r.policy for r in on_search}) == 13


def test_the_executor_is_kept_busy():
    seen = []

    class Counting(FakeExecutor):
        def wait(self, timeout=None):
            seen.append(len(self.queue))
            return super().wait(timeout)

    run(make_plan(trials=20), Counting(capacity=4), FakeLog())
    assert seen.count(4) >= 12


def test_a_reference_that_the_space_would_fill_differently_is_not_taught_to_the_sampler():
    lying = replace(reference(0.8, 0.4), params={"x": 0.1, "y": 0.1, "mode": "a"})
    outside = replace(reference(0.7, 0.4), params={"x": 7.0, "y": 0.1, "mode": "a"})
    log = FakeLog()
    run(make_plan(references=(lying, outside), trials=3), log=log)
    assert [r.sampler_number for r in log.settled[1:3]] == [None, None]
    assert [r.origin for r in log.settled[1:3]] == ["reference", "reference"]


# ---------------------------------------------------------------------------------------------------------- duplicates
def test_a_duplicate_is_settled_without_running_and_does_not_count():
    log, executor = FakeLog(), FakeExecutor()
    run(make_plan(proposals=ToySpace(steps=3), references=(), trials=14), executor, log)
    cached = [r for r in log.settled if r.cached]
    assert cached
    assert all(r.values == next(o for o in log.settled if o.digest == r.digest).values for r in cached)
    assert len(fresh(log)) == 14
    assert len([r for r in executor.submitted if r.split == "search"]) == 15


def test_a_space_with_nothing_new_ends_instead_of_hanging():
    log = FakeLog()
    front = run(make_plan(proposals=ToySpace(steps=1), references=(), trials=50), log=log)
    assert len(fresh(log)) == 8
    assert "no further policy" in " ".join(front.explanation)


def test_duplicates_of_a_running_point_wait_for_it():
    log, executor = FakeLog(), FakeExecutor(capacity=4)
    run(make_plan(proposals=ToySpace(steps=1), references=(), trials=8), executor, log)
    on_search = [r.policy for r in executor.submitted if r.split == "search"]
    assert len(on_search) == len(set(on_search)) == 9


def test_what_another_study_measured_is_a_cache_hit():
    first, second = FakeLog(), FakeLog()
    run(make_plan(trials=6), log=first)
    second.evaluations.update(first.evaluations)
    executor = FakeExecutor()
    run(make_plan(study_id="toy-2", trials=3, constraints=()), executor, second)
    assert sum(r.cached for r in second.settled) == 6
    assert len(fresh(second)) == 3
    assert len([r for r in executor.submitted if r.split == "search"]) == 3


# ---------------------------------------------------------------------------------------------------------- infeasible
def test_known_costs_rule_out_a_point_without_running_it():
    cheap = constraint("cost", "<=", 0.6)
    log, executor = FakeLog(), FakeExecutor()
    run(make_plan(proposals=ToySpace(known=True), constraints=(ACCURATE, cheap), trials=8), executor, log)
    infeasible = [r for r in log.settled if r.state == "infeasible"]
    assert infeasible
    assert all(r.constraints[cheap.text] > 0 and ACCURATE.text not in r.constraints for r in infeasible)
    ran = {r.policy for r in executor.submitted}
    assert not ran & {r.canonical for r in infeasible}
    assert len(fresh(log)) == 8


def test_a_budget_that_cannot_be_met_is_infeasible_with_its_distance():
    space = ToySpace(infeasible=lambda v: 0.2 if v["x"] < 0.5 else None)
    log = FakeLog()
    run(make_plan(proposals=space, trials=8, references=()), log=log)
    infeasible = [r for r in log.settled if r.state == "infeasible"]
    assert infeasible
    assert all(r.constraints == {"budget reachable": 0.2} and "budget" in r.reason for r in infeasible)


def test_a_space_of_infeasible_points_ends():
    front = run(make_plan(proposals=ToySpace(infeasible=lambda v: 0.2), references=(), trials=4))
    assert front.members == ()
    assert "budget reachable" in " ".join(front.explanation)


# ------------------------------------------------------------------------------------------------------------ failures
def test_a_lost_worker_is_retried_with_the_same_request():
    log, executor = FakeLog(), FakeExecutor(script={3: lost, 4: lost})
    run(make_plan(trials=5), executor, log)
    assert executor.submitted[3].policy == executor.submitted[4].policy == executor.submitted[5].policy
    assert len({r.tag for r in executor.submitted}) == len(executor.submitted)
    assert all(r.state == "complete" for r in log.settled)
    assert len(fresh(log)) == 5


def test_a_request_lost_too_often_fails():
    log, executor = FakeLog(), FakeExecutor(script={3: lost, 4: lost, 5: lost})
    run(make_plan(trials=5), executor, log)
    failed = [r for r in log.settled if r.state == "failed"]
    assert [r.reason for r in failed] == ["lost: worker died"]
    assert len(fresh(log)) == 5


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(oom, "oom: out of memory"), (with_nan("nll"), "non_finite: nll is NaN or infinite")],
)
def test_a_failure_keeps_its_reason_and_is_not_repeated(answer, reason):
    log, executor = FakeLog(), FakeExecutor(script={3: answer})
    front = run(make_plan(trials=6), executor, log)
    failed = [r for r in log.settled if r.state == "failed"]
    assert [r.reason for r in failed] == [reason]
    assert failed[0].values == {}
    assert [r.policy for r in executor.submitted].count(failed[0].canonical) == 1
    assert front.to_json()["trials"]["failed"] == 1
    assert failed[0].evaluation_key not in log.evaluations


def _without(label):
    def answer(request):
        found = measure(request)
        return Measured(request, replace(found, values={k: v for k, v in found.values.items() if k != label}))

    return answer


def _nan_sample(request):
    found = measure(request)
    return Measured(request, replace(found, samples={**found.samples, "acc": (math.nan, *found.samples["acc"][1:])}))


def _other_records(request):
    found = measure(request)
    return Measured(request, replace(found, images=tuple(reversed(found.images))))


@pytest.mark.parametrize(
    ("answer", "word"),
    [(_without("acc"), "returned no acc"), (_nan_sample, "non_finite"), (_other_records, "other records")],
)
def test_unusable_measurements_are_failures(answer, word):
    log = FakeLog()
    run(make_plan(trials=4), FakeExecutor(script={2: answer}), log)
    assert [word in r.reason for r in log.settled if r.state == "failed"] == [True]


def test_what_always_hangs_fails_as_a_timeout_after_its_tries():
    log, executor = FakeLog(), FakeExecutor(script={3: hung, 4: hung, 5: hung})
    run(make_plan(trials=5), executor, log)
    [failed] = [r for r in log.settled if r.state == "failed"]
    assert failed.reason == "timeout: no answer after 9 s"
    assert failed.lineage.splitlines() == ["timeout: no answer after 9 s"] * 2
    assert [r.policy for r in executor.submitted].count(failed.canonical) == 3
    assert len(fresh(log)) == 5


def test_a_trial_says_how_often_it_was_tried():
    log, executor = FakeLog(), FakeExecutor(script={3: hung, 4: lost})
    run(make_plan(trials=5), executor, log)
    assert [r.lineage.splitlines() for r in log.settled if r.lineage] == [
        ["timeout: no answer after 9 s", "lost: worker died"]
    ]
    assert not [r for r in log.settled if r.state == "failed"]


def test_a_failing_baseline_ends_the_study():
    with pytest.raises(AutoPruneError, match=r"baseline could not be measured on the search split \(non_finite"):
        run(make_plan(), FakeExecutor(script={0: with_nan("nll")}))


def test_too_many_failures_end_the_search_with_the_commonest_reason():
    script = {n: oom for n in range(3, 60)} | {3: with_nan("nll")}
    log = FakeLog()
    with pytest.raises(AutoPruneError, match=r"6 of 8 evaluations failed, 5 of them as 'oom'"):
        run(make_plan(trials=30), FakeExecutor(script=script), log)
    front = run(make_plan(trials=8), FakeExecutor(), log)
    assert front.to_json()["trials"]["complete"] == 8, "failures of an earlier run do not end the next one"


# ---------------------------------------------------------------------------------------------------------------- stop
def test_stop_leaves_a_study_that_continues():
    plan = make_plan(storage=optuna.storages.InMemoryStorage(), trials=12)
    log, executor = FakeLog(), FakeExecutor(capacity=2)
    with pytest.raises(Interrupted):
        run(plan, executor, log, stop=lambda: len(log.settled) >= 6)
    again = FakeExecutor()
    run(plan, again, log)
    assert len(fresh(log)) == 12
    assert len({r.policy for r in again.submitted if r.split == "search"} & {r.canonical for r in log.settled[:6]}) == 0
    _nothing_runs(plan)


def _nothing_runs(plan):
    study = optuna.load_study(study_name=plan.study_id, storage=plan.storage)
    assert not [
        t for t in study.trials if t.state in (optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING)
    ]


def test_a_key_press_while_waiting_is_an_interrupt():
    class Pressed(FakeExecutor):
        def wait(self, timeout=None):
            if len(self.submitted) == 5:
                raise KeyboardInterrupt
            return super().wait(timeout)

    with pytest.raises(Interrupted, match="continues"):
        run(make_plan(), Pressed())


def test_the_time_limit_finishes_what_runs_and_certifies():
    front = run(make_plan(time_limit=0.0))
    assert front.to_json()["trials"]["complete"] == 0
    assert "time limit" in " ".join(front.explanation)


def test_progress_is_shown():
    watcher, publisher = Watcher(), FakePublisher()
    log = FakeLog()
    search(make_plan(trials=6), FakeExecutor(), log, publisher, watcher)
    phases = list(dict.fromkeys(p.phase for p in watcher.seen))
    assert phases == ["baseline", "references", "search", "certify"]
    last = [p for p in watcher.seen if p.phase == "search"][-1]
    assert (last.complete, last.failed, last.target) == (6, 0, 6)
    curve = pareto.hypervolume_curve(log.settled, make_plan().objectives)
    assert len(curve) == 6
    assert last.hypervolume == curve[-1] > 0
    assert curve == sorted(curve)
    assert publisher.flushes == len(log.settled) + 1


# ---------------------------------------------------------------------------------------------------------- the result
def test_members_are_feasible_and_non_dominated_on_the_holdout():
    log = FakeLog()
    front = run(make_plan(trials=20), log=log)
    assert len(front.members) >= 3
    data = front.to_json()
    points = [(m["holdout"]["cost"]["value"], m["holdout"]["nll"]["value"]) for m in data["members"]]
    assert len(pareto.non_dominated(points)) == len(points)
    for member in data["members"]:
        shown = member["holdout"]["acc"]
        assert shown["low"] < shown["value"] < shown["high"]
        assert set(member["constraints"]) == {ACCURATE.text}
    selected = [m for m in data["members"] if m["selected"]]
    certified = [m for m in data["members"] if m["constraints"][ACCURATE.text] == "certified"]
    assert len(selected) == 1
    assert selected[0] in certified
    assert selected[0]["search"]["cost"] == min(m["search"]["cost"] for m in certified)
    assert log.fronts == [json.loads(json.dumps(data))]
    assert log.holdout_uses == 1


def test_an_empty_front_says_which_constraint_ruled_out_how_many():
    strict = constraint("acc", ">=", 1.2)
    front = run(make_plan(constraints=(ACCURATE, strict), trials=6))
    assert front.members == ()
    text = "\n".join(front.explanation)
    assert f"{strict.text}: missed by 6 of 6 (100 %); nearest" in text
    assert "nearest to meeting all:" in text


def test_without_constraints_the_cheapest_is_selected():
    front = run(make_plan(constraints=(), trials=6)).to_json()
    assert [m["selected"] for m in front["members"]].count(True) == 1


def test_running_a_finished_study_again_measures_nothing_and_gives_the_same_front():
    log = FakeLog()
    first = document(run(make_plan(), log=log))
    executor = FakeExecutor()
    assert document(run(make_plan(), executor, log)) == first
    assert executor.submitted == []
    assert log.holdout_uses == 1


def test_a_finalist_that_fails_on_the_holdout_is_said_so():
    class Brittle(FakeExecutor):
        def submit(self, request):
            if request.split == "holdout" and request.policy is not None and not self.script:
                self.script[len(self.submitted)] = oom
            super().submit(request)

    front = run(make_plan(), Brittle())
    assert "could not be measured on the holdout (oom: out of memory)" in " ".join(front.explanation)
    assert not any(m["selected"] for m in front.to_json()["members"]), "the sequence is broken from the first on"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objectives": ()}, "at least one objective"),
        ({"confidence": 1.0}, "confidence"),
        ({"objectives": (objective("loyalty"),)}, "loyalty"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(change, message):
    with pytest.raises(BadInput, match=message):
        make_plan(**change)


def test_one_objective_and_integer_parameters():
    space = ToySpace(parameters=(parameter("x", "int", 0, 1), parameter("y", "float", 0.0, 1.0)))

    def fill(values):
        return ToySpace().candidate({**values, "x": float(values["x"]), "mode": "a"})

    space.candidate = fill
    front = run(make_plan(proposals=space, references=(), objectives=(objective("acc", "maximize"),), trials=5))
    assert len(front.members) == 1
