"""Bisection: the smallest budget, or the smallest common factor of all keeps, that meets the constraints."""

from __future__ import annotations

import math

import pytest
from layered_support import Layered, layered_plan, members, searched
from search_support import constraint
from space_support import middle

from autoprune.search.plan import Reference

NEEDS = (0.5, 0.5, 0.4, 0.4, 0.3, 0.2, 0.1, 0.1)
MET = constraint("nll", "<=", 1.0, 0.1)


def plan(space: str, options=None, **more):
    return layered_plan(space, "bisection", options or {}, **{"constraints": (MET,), **more})


@pytest.mark.parametrize("space", ["two_stage_mixed", "p_sigmoid", "g_search", "fastv"])
@pytest.mark.parametrize("width", [1, 3])
def test_it_finds_the_smallest_that_meets_the_constraints(space, width):
    toy = Layered(needs=NEEDS)
    log = searched(toy, plan(space), width)
    found = members(toy, log, "bisection")
    spent = [float(schedule.budget(64)) for schedule in found]
    met = [toy.loss(schedule) <= 0.1 for schedule in found]
    assert any(met)
    assert not all(met)
    best = min(budget for budget, ok in zip(spent, met, strict=True) if ok)
    assert max(budget for budget, ok in zip(spent, met, strict=True) if not ok) <= best
    if width == 1:
        assert len([r for r in log.settled if r.phase == "bisection"]) <= 1 + math.ceil(math.log2(64))


def test_the_rest_stands_as_in_the_best_reference_of_the_space():
    space = plan("two_stage_mixed").proposals
    values = {**middle(space), "how": "stride", "l1": 2, "budget": 0.6, "front": 0.9}
    known = Reference(space.candidate(values), values)
    toy = Layered(needs=NEEDS)
    log = searched(toy, plan("two_stage_mixed", references=(known,)))
    asked = [r.params for r in log.settled if r.phase == "bisection"]
    assert all({**one, "budget": 0} == {**values, "budget": 0} for one in asked)


def test_a_cost_that_is_missed_is_no_reason_to_keep_more():
    toy = Layered(needs=NEEDS)
    cheap = constraint("budget", "<=", 0.5)
    log = searched(toy, plan("g_search", constraints=(MET, cheap)))
    found = members(toy, log, "bisection")
    assert min(float(schedule.budget(64)) for schedule in found if toy.loss(schedule) <= 0.1) <= 0.5


def test_where_even_the_most_is_too_little_it_stops():
    toy = Layered(needs=NEEDS, weight=50)
    log = searched(toy, plan("g_search", constraints=(constraint("nll", "<=", 0.9),)))
    assert len([r for r in log.settled if r.phase == "bisection"]) == 1
