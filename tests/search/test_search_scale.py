"""Searches on simulated workers that fail, die and straggle: nothing is lost, nothing is settled twice."""

from __future__ import annotations

from collections import Counter

import pytest
from search_support import FakeLog, fresh
from search_support import run as search

from autoprune.ports import Failed, Lost, Measured
from autoprune.spec.goals import Objective
from benchmarks.simulated import SimulatedExecutor, Weather, ideal_seconds
from benchmarks.synthetic import BEST, SyntheticEvaluator, plan, problem

SPACE = "p_sigmoid"
BAD = Weather(stragglers=0.06, failures={"oom": 0.05, "error": 0.04}, losses=0.1, timeout=50.0)


def workers(count: int, weather: Weather = BAD) -> SimulatedExecutor:
    return SimulatedExecutor(SyntheticEvaluator(problem(SPACE)), count, weather)


class Listening(SimulatedExecutor):
    """Writes down what went in and what came out."""

    def __init__(self, count: int, weather: Weather = BAD) -> None:
        super().__init__(SyntheticEvaluator(problem(SPACE)), count, weather)
        self.asked: list[str] = []
        self.answered: list[str] = []
        self.kinds: Counter[str] = Counter()

    def submit(self, request):
        self.asked.append(request.tag)
        super().submit(request)

    def wait(self, timeout=None):
        outcomes = super().wait(timeout)
        self.answered += [outcome.request.tag for outcome in outcomes]
        self.kinds.update(o.kind if isinstance(o, Failed) else type(o).__name__ for o in outcomes)
        return outcomes


@pytest.mark.parametrize("count", [1, 16, 64])
def test_every_trial_is_settled_once_whatever_befalls_its_workers(count: int) -> None:
    executor, log = Listening(count), FakeLog()
    front = search(plan(SPACE, 120, max_retries=4, max_failures=60), executor, log)
    assert Counter(executor.answered) == Counter(executor.asked)
    assert set(executor.kinds) == {"Measured", "Lost", "oom", "error", "timeout"}, "all of it happened"
    trials = [r for r in log.settled if r.origin == "trial"]
    assert len(fresh(log)) == 120
    assert Counter(r.sampler_number for r in trials).most_common(1)[0][1] == 1, "no proposal is settled twice"
    assert {r.sampler_number for r in trials} == set(range(len(trials))), "no proposal is lost"
    measured = Counter(r.digest for r in trials if r.state == "complete" and not r.cached)
    assert measured.most_common(1)[0][1] == 1
    failed = [r for r in trials if r.state == "failed" and not r.cached]
    assert failed
    assert front.to_json()["trials"] == {"complete": 120, "failed": len(failed), "running": 0}
    for record in trials:
        if record.state == "complete":
            assert log.evaluations[record.evaluation_key].values == record.values


def test_the_weather_changes_when_answers_come_and_not_what_they_say() -> None:
    logs = {}
    for name, weather in (("fair", Weather()), ("stormy", Weather(stragglers=0.2, losses=0.15))):
        logs[name] = FakeLog()
        search(plan(SPACE, 40, synchronous=True, max_retries=9), workers(8, weather), logs[name])
    fair, stormy = ({r.digest: r.values for r in log.settled} for log in logs.values())
    assert fair == stormy


def test_stragglers_do_not_hold_the_others_up() -> None:
    executor = workers(16, Weather(stragglers=0.05, straggle=20.0))
    search(plan(SPACE, 160), executor, FakeLog())
    last = max(executor.durations)
    assert executor.now < 1.05 * ideal_seconds(executor.durations, 16) + last


def test_a_simulated_executor_keeps_its_promises() -> None:
    executor = workers(2, Weather(seconds=10, spread=0, losses=0.3, restart=5, seed=4))
    requests = [plan(SPACE, 1).request(None, "search", tag=str(i)) for i in range(8)]
    for request in requests:
        executor.submit(request)
    outcomes = []
    while there := executor.wait(0.0):
        outcomes += there
    assert {o.request.tag for o in outcomes} == {r.tag for r in requests}
    assert len(outcomes) == len(requests)
    assert {type(o) for o in outcomes} == {Measured, Lost}
    deaths = sum(isinstance(o, Lost) for o in outcomes)
    assert sum(executor.durations) == pytest.approx(10 * (8 - deaths) + 5 * deaths)
    assert executor.now <= (sum(executor.durations) + 5 * deaths) / 2 + 10
    assert executor.wait() == []


def test_the_planted_policy_is_the_best_there_is() -> None:
    found = problem(SPACE)
    planted = found.proposals.candidate(found.planted)
    assert found.loss(planted.canonical) == 0
    measured = found.measure(plan(SPACE, 1).request(planted.canonical, "search"))
    assert measured.values["answer_nll"] == pytest.approx(BEST)
    elsewhere = found.proposals.candidate({**found.planted, "budget": 0.6})
    assert found.loss(elsewhere.canonical) > 0.01


@pytest.mark.full
def test_bayesian_comes_nearer_to_a_planted_optimum_than_random() -> None:
    """The median of what is missing after 32 trials, over seeds, on eight workers in bad weather."""
    goal = Objective(plan(SPACE, 1).objectives[0].measure, "minimize")
    missing: dict[str, list[float]] = {"random": [], "bayesian": []}
    for strategy, found in missing.items():
        for seed in range(5):
            log = FakeLog()
            study = plan(SPACE, 32, strategy=strategy, seed=seed, objectives=(goal,), max_retries=4, max_failures=32)
            search(study, workers(8), log)
            found.append(min(r.values["answer_nll"] for r in fresh(log)) - BEST)
    random, bayesian = (sorted(found)[2] for found in missing.values())
    assert bayesian < random / 2, missing
