"""Curves in place of a space's stages: the derived spaces, fits to schedules, and the searches that use both."""

from __future__ import annotations

import random
from fractions import Fraction

import optuna
import pytest
from layered_support import Layered, layered_plan, searched
from search_support import FakeExecutor, FakeLog, Killed, run
from space_support import derived, middle, proposals

from autoprune.errors import BadInput
from autoprune.policy import catalog
from autoprune.policy.budget import Infeasible
from autoprune.policy.canonical import from_json
from autoprune.pruning.plan import make_plan
from autoprune.search.curve_fit import fitted
from autoprune.search.schedule import Schedule, schedule_of

CURVES = ("p_sigmoid", "logistic", "geometric", "steps")
DECIDE = ("autoprune_2025", "lvlm_csp", "saint_llm", "sparsity_meets_similarity", "todre")
INSIDE = [n for n in catalog.names("search_spaces") if n != "arms" and max(proposals(n).sites) > 0 and n not in DECIDE]
NEEDS = (1, 1, 0.75, 0.75, 0.5, 0.25, 0, 0)
QUICK = {"tolerances": [0.1, 0.3], "block": 2, "resolution": 8, "limit": 0.1}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("name", INSIDE)
def test_points_of_a_derived_space_are_policies_and_what_stands_before_the_model_stays(name, curve):
    space = derived(name, curve, 16, 144)
    before = [s for s in proposals(name, 16, 144).filled(middle(proposals(name, 16, 144)))["stages"] if early(s)]
    rng, made = random.Random(name), 0
    for _ in range(24):
        values = {
            p.name: rng.choice(p.choices)
            if p.kind == "choice"
            else (rng.randint if p.kind == "int" else rng.uniform)(p.low, p.high)
            for p in space.parameters
        }
        try:
            candidate = space.candidate(values)
        except Infeasible:
            continue
        made += 1
        make_plan(from_json(candidate.canonical), space.geometry)
        kept = schedule_of(candidate.canonical, 144)
        assert kept.budget(144) <= space.space.space.budget[1]
        now = [s for s in candidate.document["stages"] if early(s)]
        assert [s["at"] for s in now] == [s["at"] for s in before]
        if made == 3:
            break
    assert made


def early(stage) -> bool:
    return stage.get("at") in ("projector", "llm:0")


@pytest.mark.parametrize("name", [*DECIDE, "divprune"])
def test_a_space_without_stages_to_stand_for_is_refused(name):
    with pytest.raises(BadInput, match=r"no curve can|no stage inside the language model"):
        derived(name, "p_sigmoid")


def test_a_space_that_has_the_curve_stays_as_it_is():
    assert derived("p_sigmoid", "p_sigmoid").space.digest == proposals("p_sigmoid").space.digest
    assert derived("p_sigmoid", "logistic").space.digest != proposals("p_sigmoid").space.digest


def test_more_steps_than_layers_are_refused():
    with pytest.raises(BadInput, match="5 steps need as many layers; the space allows 3 to 5"):
        derived("vflowopt", "steps", depth=8, n=5)


def test_every_step_has_a_place_and_a_keep_and_the_last_is_solved():
    names = {p.name for p in derived("g_search", "steps", n=4).parameters}
    keeps = {f"stages[{i}].keep.of_current" for i in range(3)}
    assert names == {"budget", "step1", "step2", "step3", "step4", *keeps}


@pytest.mark.parametrize("curve", CURVES)
def test_a_fit_finds_a_curve_again(curve):
    space = derived("g_search", curve, 8, 64)
    part = {"p_sigmoid": 0.7, "logistic": 0.3, "geometric": 0.2, "steps": 0.2}[curve]
    drawn = {p.name: p.low + round(part * (p.high - p.low), 3 if p.kind == "float" else 0) for p in space.parameters}
    target = schedule_of(space.candidate({**drawn, "budget": 0.45}).canonical, 64)
    found = fitted(space, middle(space), target, seed=1)
    assert found == fitted(space, middle(space), target, seed=1)
    kept = schedule_of(space.candidate(found).canonical, 64)
    apart = [abs(float(a - b)) for a, b in zip(kept.layers, target.layers, strict=True)]
    assert sum(apart) / 8 < 0.05
    assert float(target.budget(64)) == pytest.approx(float(kept.budget(64)), abs=0.02)


def test_only_what_moves_the_schedule_is_fitted():
    space = derived("two_stage_mixed", "geometric", 8, 64)
    values = {**middle(space), "how": "stride", "mix[0]": 0.3}
    found = fitted(space, values, Schedule.of(8, {3: Fraction(1, 3)}), seed=1)
    assert {k: found[k] for k in ("how", "mix[0]", "mix[1]")} == {k: values[k] for k in ("how", "mix[0]", "mix[1]")}


@pytest.fixture
def quick(monkeypatch):
    """TPE in place of the Gaussian process: its proposals take no time, and come from the seed as well."""
    monkeypatch.setattr("autoprune.search.sampler.choose", lambda *asked: "tpe")


def plan(curve: str, **more):
    given = {"proposals": derived("g_search", curve, 8, 64), "trials": 16, "measures": ("budget", "nll")}
    return layered_plan("g_search", curve, QUICK, **{**given, **more})


def rows(log: FakeLog) -> list[tuple]:
    return [(r.phase, r.digest, r.limit, tuple(sorted(r.params.items()))) for r in log.settled]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("curve", ["p_sigmoid", "steps"])
def test_a_search_goes_from_the_ladder_to_its_fits_to_the_sampler(curve):
    toy = Layered(needs=NEEDS)
    log = searched(toy, plan(curve))
    phases = list(dict.fromkeys(r.phase for r in log.settled if r.origin == "trial"))
    assert sorted(phases) == sorted(["greedy", "fitted", curve])
    assert phases[-1] == curve
    fits = [r for r in log.settled if r.phase == "fitted"]
    assert [r.sampler_number is not None for r in fits] == [True] * 2, "the sampler learns from them"
    assert fits[0].values["budget"] > fits[1].values["budget"]
    assert all(r.state == "partial" for r in log.settled if r.phase == "greedy")
    assert rows(searched(Layered(needs=NEEDS), plan(curve))) == rows(log)
    assert rows(searched(Layered(needs=NEEDS), plan(curve, seed=8))) != rows(log)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("spot", "time"), [("after remember", 6), ("before settle", 14), ("after settle", 17)])
def test_a_killed_search_goes_on_and_measures_nothing_twice(spot, time):
    toy, storage = Layered(needs=NEEDS), optuna.storages.InMemoryStorage()
    log, executor = FakeLog(kill_at=(spot, time)), FakeExecutor(answer=toy.measure)
    with pytest.raises(Killed):
        run(plan("steps", storage=storage, trials=10), executor, log)
    log.kill_at = None
    run(plan("steps", storage=storage, trials=10), executor, log)
    assert rows(log) == rows(searched(Layered(needs=NEEDS), plan("steps", trials=10)))
    asked = [(r.policy, r.split, r.limit) for r in executor.submitted]
    assert len(asked) == len(set(asked))
