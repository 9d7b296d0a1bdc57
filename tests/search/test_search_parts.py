"""The sampler rule, the space as Optuna sees it, and retries."""

from __future__ import annotations

import subprocess
import sys

import optuna
import pytest
from search_support import FakeExecutor, hung, lost, make_plan, oom, parameter

from autoprune.errors import AutoPruneError
from autoprune.ports import Failed, Lost, Measured, TrialRecord
from autoprune.search import sampler
from autoprune.search.dispatch import Dispatcher
from autoprune.search.ledger import Ledger
from autoprune.search.stop import check_failures


@pytest.mark.parametrize(
    ("kind", "dimensions", "trials", "objectives", "name"),
    [
        ("bayesian", 15, 200, 2, "gp"),
        ("bayesian", 3, 32, 1, "gp"),
        ("bayesian", 16, 64, 2, "tpe"),
        ("bayesian", 3, 201, 2, "tpe"),
        ("evolutionary", 3, 32, 2, "nsga2"),
        ("evolutionary", 3, 32, 3, "nsga3"),
        ("random", 3, 32, 2, "random"),
    ],
)
def test_the_sampler_rule(kind, dimensions, trials, objectives, name):
    assert sampler.choose(kind, dimensions, trials, objectives) == name


@pytest.mark.parametrize("name", ["gp", "tpe", "random"])
def test_samplers_are_optunas_and_silent(name, recwarn):
    built = sampler.build(name, seed=1, index=2, startup=4)
    assert type(built).__name__.lower().startswith(name)
    assert not recwarn.list


SPACE = (
    parameter("layer", "int", 2, 8),
    parameter("keep", "float", 0.1, 1.0),
    parameter("how", "choice", choices=("top", {"nms": {"tau": 0.5}}, None)),
)


def test_values_survive_the_way_through_optuna():
    dimensions = sampler.Dimensions(SPACE)
    values = {"layer": 3, "keep": 0.5, "how": {"nms": {"tau": 0.5}}}
    stored = dimensions.to_optuna(values)
    assert stored is not None
    assert isinstance(stored["how"], str)
    assert dimensions.from_optuna(stored) == values
    study = optuna.create_study()
    study.enqueue_trial(stored)
    assert study.ask(dimensions.distributions()).params == stored


@pytest.mark.parametrize(
    "change", [{"layer": 9}, {"layer": 2.5}, {"keep": 0.05}, {"how": "far"}, {"unknown": 1}, {"keep": None}]
)
def test_values_outside_the_space_are_noticed(change):
    values = {"layer": 3, "keep": 0.5, "how": "top", **change}
    if values["keep"] is None:
        del values["keep"]
    assert sampler.Dimensions(SPACE).to_optuna(values) is None


def request(policy):
    return make_plan().request(policy, "search")


BASE = '{"mode": "a", "x": 1.0, "y": 1.0}'


def test_an_answer_to_somebody_elses_request_is_ignored():
    executor = FakeExecutor(capacity=9)
    executor.submit(request(BASE))
    dispatcher: Dispatcher[str] = Dispatcher(executor, max_retries=1)
    dispatcher.submit(request(BASE), "mine")
    assert dispatcher.collect(0.01) == []
    [(owner, outcome)] = dispatcher.collect(0.01)
    assert owner == "mine"
    assert isinstance(outcome, Measured)
    assert outcome.lineage == ""


@pytest.mark.parametrize(("answer", "what"), [(lost, Lost), (hung, Failed)])
def test_a_request_whose_worker_always_dies_or_hangs_comes_back_after_its_retries(answer, what):
    executor = FakeExecutor(capacity=1, script={0: answer, 1: answer, 2: answer})
    dispatcher: Dispatcher[str] = Dispatcher(executor, max_retries=2)
    dispatcher.submit(request(BASE), "mine")
    assert dispatcher.collect(0.01) == []
    assert not dispatcher.has_room
    assert dispatcher.collect(0.01) == []
    [(owner, outcome)] = dispatcher.collect(0.01)
    assert owner == "mine"
    assert isinstance(outcome, what)
    assert outcome.lineage.count("\n") == 1
    assert dispatcher.running == 0


def test_what_worked_in_the_end_says_what_did_not_before():
    executor = FakeExecutor(capacity=1, script={0: lost, 1: hung})
    dispatcher: Dispatcher[str] = Dispatcher(executor, max_retries=2)
    dispatcher.submit(request(BASE), "mine")
    ended = [done for _ in range(3) for done in dispatcher.collect(0.01)]
    [(_, outcome)] = ended
    assert isinstance(outcome, Measured)
    assert outcome.lineage.splitlines() == ["lost: worker died", "timeout: no answer after 9 s"]


def test_memory_is_not_tried_again():
    executor = FakeExecutor(capacity=1, script={0: oom})
    dispatcher: Dispatcher[str] = Dispatcher(executor, max_retries=2)
    dispatcher.submit(request(BASE), "mine")
    [(_, outcome)] = dispatcher.collect(0.01)
    assert isinstance(outcome, Failed)
    assert len(executor.submitted) == 1


def trial(number, state="complete", reason="", slacks=None, cached=False):
    return TrialRecord(
        number,
        "trial",
        f"t{number}",
        state,
        {},
        "",
        f"d{number}",
        constraints=slacks or {},
        reason=reason,
        cached=cached,
    )


def test_failures_are_tolerated_up_to_a_share():
    ledger = Ledger([])
    for n in range(5):
        ledger.add(trial(n, "failed", "oom: full"))
    check_failures(ledger, 5)
    ledger.add(trial(5, "failed", "error: odd"))
    with pytest.raises(AutoPruneError, match=r"6 of 6 evaluations failed, 5 of them as 'oom'"):
        check_failures(ledger, 5)
    for n in range(6, 24):
        ledger.add(trial(n))
    check_failures(ledger, 5)


def test_the_room_imports_nothing_heavy():
    code = (
        "import sys, autoprune.search.driver, autoprune.search.sizing;"
        "print([m for m in ('torch','optuna','ray','mlflow','sqlalchemy','transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
