"""What a strategy prepares and refines in a space with arms: in which, with how many trials, and that it goes on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import optuna
import pytest
from layered_support import Layered, layered_plan
from search_support import FakeExecutor, FakeLog, Killed, fresh, objective, run
from space_support import middle, proposals

from autoprune.errors import BadInput
from autoprune.ports import EvalRequest, TrialRecord
from autoprune.search.by_arm import PAID, by_arm, shared_out
from autoprune.search.plan import Reference
from autoprune.search.refining import Refining, Spot
from autoprune.search.strategy import Answer, Probe, Probes, Sample, Task, Tell

NEEDS = (1.0, 0.9, 0.8, 0.5, 0.4, 0.3, 0.2, 0.1)
BARE, CURVE, TWO = (proposals(name, 8, 64) for name in ("todre", "p_sigmoid", "g_search"))
"""No schedule can stand in the first."""
SHARES = {"prepare": 0.25, "refine": 0.25}


def known_in(arm: str, space: Any) -> Reference:
    values = middle(space)
    return Reference(space.candidate(values), values, arm)


def plan(trials: int = 30, **changes: Any) -> Any:
    arms = {"proposals": BARE, "first_arm": "bare", "more_arms": {"curve": CURVE}}
    return layered_plan("todre", "auto", SHARES, trials=trials, **{**arms, **changes})


def searched(made: Any, log: FakeLog | None = None) -> FakeLog:
    log = FakeLog() if log is None else log
    run(made, FakeExecutor(answer=Layered(NEEDS).measure), log)
    return log


def test_the_arm_of_the_best_reference_is_prepared_and_refined() -> None:
    log = searched(plan(references=(known_in("curve", CURVE),)))
    arms: dict[str, set[str]] = {}
    for record in log.settled[1:]:
        arms.setdefault(record.phase, set()).add(record.arm)
    assert arms["greedy"] == arms["ladder"] == arms["refine"] == {"curve"}
    assert arms["bayesian"] == {"bare", "curve"}


def test_members_say_their_arm() -> None:
    log = FakeLog()
    made = plan(references=(known_in("curve", CURVE),))
    front = run(made, FakeExecutor(answer=Layered(NEEDS).measure), log)
    assert {member.arm for member in front.members} <= {"bare", "curve"}
    by_digest = {r.digest: r.arm for r in fresh(log)}
    assert all(member.arm == by_digest[member.digest] for member in front.members)
    assert type(front).from_json(front.to_json()).members[0].arm == front.members[0].arm


@pytest.mark.parametrize("nth", [9, 20, 28])
def test_after_a_kill_it_goes_on_in_the_same_arms(nth: int) -> None:
    def settled(log: FakeLog) -> list[tuple[int, str, str, str]]:
        return [(r.number, r.digest, r.arm, r.phase) for r in log.settled]

    references = (known_in("curve", CURVE),)
    whole = searched(plan(references=references))
    log, storage = FakeLog(kill_at=("after settle", nth)), optuna.storages.InMemoryStorage()
    with pytest.raises(Killed):
        searched(plan(references=references, storage=storage), log)
    log.kill_at = None
    assert settled(searched(plan(references=references, storage=storage), log)) == settled(whole)


# ----------------------------------------------------------------------------------------------------- shares and turns
def task(trials: int, *known: TrialRecord) -> Task:
    goals = (objective("budget"), objective("nll"))
    baseline = Layered(NEEDS).measure(EvalRequest(None, "search", ("budget", "nll")))
    return Task(BARE, goals, (), baseline, trials, len(known), 3, 1, lambda *phases: list(known), arm="a")


def record(arm: str, cost: float, slack: float = -1.0) -> TrialRecord:
    values = {"budget": cost, "nll": 2.0}
    return TrialRecord(1, "reference", "r", "complete", {}, "", "d", values=values, constraints={"c": slack}, arm=arm)


ARMS = {"a": BARE, "b": CURVE, "c": TWO}


def test_as_many_arms_as_the_trials_pay_for_the_best_references_first() -> None:
    known = (record("a", 0.5), record("c", 0.3), record("b", 0.1, slack=1.0))
    assert [(t.arm, t.trials, list(t.others)) for t in shared_out(task(PAID), ARMS)] == [("a", PAID, ["", "b", "c"])]
    assert [(t.arm, t.trials) for t in shared_out(task(3 + 2 * PAID, *known), ARMS)] == [("c", PAID), ("a", PAID)]
    every = shared_out(task(3 + 4 * PAID, *known), ARMS)
    assert [t.arm for t in every] == ["c", "a", "b"]
    assert [list(t.others) for t in every] == [[""], [], []]
    assert all(t.proposals is ARMS[t.arm] and t.references == 0 for t in every)


def steps_of(own: Task) -> Any:
    """Probes, a bounded sampling, probes, then the rest."""
    yield Tell("begun")
    (answer,) = yield Probes("first", [Probe(values={"of": own.arm})])
    assert answer.probe.values == {"of": own.arm}
    yield Sample("s", "bayesian", own.trials)
    yield Probes("second", [Probe(values={"of": own.arm})])
    yield Sample("s", "bayesian")


def served(steps: Any) -> list[Any]:
    found, answers = [], None
    while True:
        try:
            step = next(steps) if answers is None else steps.send(answers)
        except StopIteration:
            return found
        found.append(step)
        answers = [Answer(probe, "complete") for probe in step.probes] if isinstance(step, Probes) else []


def test_runs_take_turns_and_sample_together() -> None:
    found = served(by_arm(task(2 * PAID), {"a": BARE, "b": CURVE}, steps_of))
    shown = [
        (s.phase, s.arm) if isinstance(s, Probes) else (s.line if isinstance(s, Tell) else s.trials) for s in found
    ]
    first = ["arm a: begun", ("first", "a"), "arm b: begun", ("first", "b"), 2 * PAID]
    assert shown == [*first, ("second", "a"), ("second", "b"), None]


def test_an_arm_that_a_strategy_cannot_search_is_left_to_sampling() -> None:
    def some(own: Task) -> Any:
        if own.arm == "a":
            raise BadInput("no schedule")
        yield from steps_of(own)

    def none(own: Task) -> Any:
        raise BadInput(f"no schedule in {own.arm}")
        yield

    found = served(by_arm(task(2 * PAID), {"a": BARE, "b": CURVE}, some))
    assert found[0].line == "arm a: no schedule"
    assert Counter(type(step) for step in found) == {Tell: 2, Probes: 2, Sample: 2}
    with pytest.raises(BadInput, match="no schedule in a"):
        served(by_arm(task(2 * PAID), {"a": BARE, "b": CURVE}, none))


def test_members_of_an_arm_without_a_run_are_refined_as_well() -> None:
    (own,) = shared_out(task(PAID), {"a": TWO, "b": CURVE})
    made = CURVE.candidate(middle(CURVE))
    spot = Spot(made.document, made.canonical, made.digest, (0.4, 2.5), arm="b")
    step = next(Refining(own, [spot]).run(4))
    assert isinstance(step, Probes)
    assert step.arm == "b"
    assert not list(Refining(replace(own, others={}), [spot]).run(4)), "it is another task's"
