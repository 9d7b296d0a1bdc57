"""The greedy ladder: the known optimum, rungs that only fall, the same with several workers, and after a kill."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import optuna
import pytest
from layered_support import Layered, layered_plan, members, searched, steps
from search_support import RECORDS, FakeExecutor, FakeLog, Killed, constraint, run

from autoprune.errors import BadInput
from autoprune.policy.budget import rounded
from autoprune.search.ladder import ALLOWED

NEEDS = (1, 1, 0.75, 0.75, 0.5, 0.25, 0, 0)
FREE = {"tolerances": [0.0], "block": 1}


def toy(**more) -> Layered:
    return Layered(**{"needs": NEEDS, **more})


def test_it_keeps_what_every_layer_needs_and_no_more():
    """Without any loss allowed the optimum is what each layer needs, at the layers the space allows."""
    lossless = toy()
    (found,) = members(lossless, searched(lossless, layered_plan("logistic", "greedy", FREE)))
    assert found.steps == steps((2, "3/4"), (4, "1/2"), (5, "1/4"), (6, "0"))
    assert lossless.loss(found) == 0


def least_by_hand(lossy: Layered, places: range, tolerance: float, fine: int) -> list[Fraction]:
    """The paper's procedure with every keep tried: at each place the least that stays within its share."""
    keeps: list[Fraction] = []
    for number, _ in enumerate(places, 1):
        for k in range(fine + 1):
            tried = [*keeps, Fraction(k, fine)]
            layers = [Fraction(1)] * places[0] + tried + [tried[-1]] * (len(lossy.needs) - places[0] - len(tried))
            short = sum(max(0.0, need - float(keep)) for need, keep in zip(lossy.needs, layers, strict=True))
            if short <= tolerance * 2.0 * number / len(places) + 1e-9 and (not keeps or tried[-1] <= keeps[-1]):
                keeps = tried
                break
    return keeps


@pytest.mark.parametrize("tolerance", [0.1, 0.3, 0.6])
def test_a_loss_is_allowed_place_by_place(tolerance):
    lossy = toy()
    options = {"tolerances": [tolerance], "block": 1, "resolution": 32}
    (found,) = members(lossy, searched(lossy, layered_plan("logistic", "greedy", options)))
    assert list(found.layers[1:]) == least_by_hand(lossy, range(1, 8), tolerance, 32)
    assert 0 < lossy.loss(found) <= tolerance * 2.0 + 1e-9


@pytest.mark.parametrize("space", ["logistic", "two_stage_mixed", "g_search", "aim", "fastv"])
def test_rungs_only_fall(space):
    lossy = toy(weight=0.2)
    found = members(lossy, searched(lossy, layered_plan(space, "greedy", {})))
    assert len(found) == len({schedule.steps for schedule in found}) >= 3
    for above, below in pairwise(found):
        assert all(a >= b for a, b in zip(above.layers, below.layers, strict=True))
        assert above.budget() > below.budget()
        assert lossy.loss(above) <= lossy.loss(below)


@pytest.mark.parametrize("width", [2, 3, 7])
def test_several_workers_find_the_same_in_fewer_rounds(width):
    one, several = toy(), toy()
    options = {"tolerances": [0.05, 0.2], "block": 2}
    alone = searched(one, layered_plan("logistic", "greedy", options))
    together = searched(several, layered_plan("logistic", "greedy", options), width)
    assert members(one, alone) == members(several, together)
    assert len(several.seen) > len(one.seen), "k-section asks more questions, side by side"


def test_steps_are_measured_on_part_of_the_records_and_members_in_full():
    lossy, executor, log = toy(), None, FakeLog()
    executor = FakeExecutor(answer=lossy.measure)
    front = run(layered_plan("logistic", "greedy", {"limit": 0.1}), executor, log)
    part = [r for r in log.settled if r.phase == "greedy"]
    assert {r.limit for r in part} == {RECORDS["search"] // 10}
    assert {r.state for r in part} == {"partial"}
    assert {r.limit for r in log.settled if r.phase == "ladder"} == {None}
    names = {r.name for r in log.settled if r.phase == "ladder"}
    assert {m.name for m in front.members} <= names


def test_a_constraint_says_what_may_be_lost():
    lossy = toy()
    bound = constraint("nll", "<=", 1.0, 0.4)
    plan = layered_plan("logistic", "greedy", {"block": 1, "resolution": 32}, constraints=(bound,))
    losses = [lossy.loss(found) for found in members(lossy, searched(lossy, plan))]
    assert all(loss <= part * 0.4 + 1e-9 for loss, part in zip(losses, ALLOWED, strict=True))
    assert losses[2] > 0.3, "most of what the constraint allows is used"


def test_where_the_unpruned_model_loses_nothing_the_strongest_pruning_is_the_measure(monkeypatch):
    monkeypatch.setattr("layered_support.NLL", 0.0)
    lossy = toy()
    options = {"tolerances": [0.5], "block": 1, "resolution": 64}
    (found,) = members(lossy, searched(lossy, layered_plan("logistic", "greedy", options)))
    worst = sum(NEEDS[1:])
    assert 0.3 * worst < lossy.loss(found) <= 0.5 * worst + 1e-9


def test_what_fails_is_not_within_any_tolerance():
    lossy, log = toy(), FakeLog()

    def broken(request):
        found = lossy.measure(request)
        if request.policy is not None and lossy.schedule(request.policy).at(1) < Fraction(1, 2):
            return found.__class__(**{**found.__dict__, "values": {**found.values, "nll": float("nan")}})
        return found

    run(layered_plan("logistic", "greedy", {"tolerances": [10.0]}, max_failures=99), FakeExecutor(answer=broken), log)
    (found,) = members(lossy, log)
    assert found.at(1) == Fraction(1, 2)


def test_without_anything_to_lose_it_does_not_begin():
    plan = layered_plan("logistic", "greedy", {}, objectives=layered_plan("logistic", "greedy", {}).objectives[:1])
    with pytest.raises(BadInput, match="nothing says what pruning may lose"):
        searched(toy(), plan)


@pytest.mark.parametrize("spot", ["before remember", "after remember", "before settle", "after settle"])
@pytest.mark.parametrize("time", [3, 9, 16])
def test_a_killed_ladder_goes_on_and_measures_nothing_twice(spot, time):
    options = {"tolerances": [0.05, 0.2], "block": 2, "resolution": 8}
    storage = optuna.storages.InMemoryStorage()
    plan = layered_plan("logistic", "greedy", options, storage=storage)
    lossy = toy()
    log, executor = FakeLog(kill_at=(spot, time)), FakeExecutor(answer=lossy.measure)
    with pytest.raises(Killed):
        run(plan, executor, log)
    log.kill_at = None
    run(plan, executor, log)
    whole = searched(toy(), layered_plan("logistic", "greedy", options))
    assert [(r.digest, r.limit) for r in log.settled] == [(r.digest, r.limit) for r in whole.settled]
    asked = [(r.policy, r.split, r.limit) for r in executor.submitted]
    assert len(asked) - len(set(asked)) <= (1 if spot == "before remember" else 0)


def test_counts_are_whole_tokens():
    lossy = toy()
    for found in members(lossy, searched(lossy, layered_plan("logistic", "greedy", {"resolution": 10}))):
        assert all(keep * 64 == rounded(keep, 64) for _, keep in found.steps)
