"""The sampler rule, the space as Optuna sees it, and retries."""

from __future__ import annotations

import subprocess
import sys

import optuna
import pytest
from search_support import FakeExecutor, lost, make_plan, parameter, silent

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


def test_a_late_answer_to_a_request_given_up_on_is_ignored():
    executor = FakeExecutor(capacity=9, script={0: silent})
    dispatcher: Dispatcher[str] = Dispatcher(executor, max_retries=1, timeout=0.05)
    dispatcher.submit(request(BASE), "slow")
    ended = []
    while not ended:
        ended = dispatcher.collect(0.01)
    assert isinstance(ended[0][1], Failed)
    assert ended[0][1].kind == "timeout"
    executor.script.clear()
    dispatcher.submit(request(BASE), "next")
    assert dispatcher.collect(0.01) == []
    [(owner, outcome)] = dispatcher.collect(0.01)
    assert owner == "next"
    assert isinstance(outcome, Measured)


def test_a_lost_request_comes_back_after_its_retries():
    executor = FakeExecutor(capacity=1, script={0: lost, 1: lost})
    dispatcher: Dispatcher[str] = Dispatcher(executor, max_retries=1)
    dispatcher.submit(request(BASE), "mine")
    assert dispatcher.collect(0.01) == []
    assert not dispatcher.has_room
    [(owner, outcome)] = dispatcher.collect(0.01)
    assert owner == "mine"
    assert isinstance(outcome, Lost)
    assert dispatcher.running == 0


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
