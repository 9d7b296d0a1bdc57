"""A sampled budget means a point of what the other values can reach, so that hardly a proposal makes no policy."""

from __future__ import annotations

import random
from typing import Any

import pytest
from space_support import middle, proposals

from autoprune.api.proposals import Proposals
from autoprune.policy.budget import Infeasible
from autoprune.policy.parameters import Parameter
from autoprune.search.schedule import schedule_of

SPACE = proposals("two_stage_mixed", 8, 144)
KEEPS_MUCH = {**middle(SPACE), "front": 0.7, "stages[1].keep.of_current": 0.8, "l2": 0.6}


def point(space: Proposals, rng: random.Random) -> dict[str, Any]:
    def one(p: Parameter) -> Any:
        if p.kind == "choice":
            return rng.choice(p.choices)
        low, high = p.low or 0, p.high or 0
        return rng.randint(int(low), int(high)) if p.kind == "int" else rng.uniform(low, high)

    return {p.name: one(p) for p in space.parameters}


def is_policy(space: Proposals, values: dict[str, Any]) -> bool:
    try:
        space.candidate(values)
    except Infeasible:
        return False
    return True


def budget_at(value: float, **changes: float) -> float:
    made = SPACE.candidate({**KEEPS_MUCH, "budget": value, **changes})
    return float(schedule_of(made.canonical, 144).budget(144))


def test_nearly_every_point_of_the_space_is_a_policy():
    rng = random.Random(3)
    assert sum(is_policy(SPACE, point(SPACE, rng)) for _ in range(100)) > 95


def test_the_range_begins_where_the_others_can_reach_it_and_ends_where_it_did():
    found = [budget_at(value) for value in (0.08, 0.2, 0.34, 0.47, 0.6)]
    assert found == sorted(found)
    assert len(set(found)) == len(found)
    assert found[0] > 0.35, "what stands before leaves that much"
    assert found[-1] == pytest.approx(0.6, abs=0.01)


def test_a_policy_of_the_space_is_expressed_by_the_values_that_make_it():
    rng, found = random.Random(5), 0
    for _ in range(20):
        values = point(SPACE, rng)
        if not is_policy(SPACE, values):
            continue
        made = SPACE.candidate(values)
        expressed = SPACE.express(made.document)
        if expressed is not None:
            assert SPACE.candidate(expressed).digest == made.digest
            found += 1
    assert found > 10


def test_where_all_of_the_range_can_be_met_it_is_left_alone():
    alone = proposals("divprune", 8, 144)
    low, high = alone.space.budget
    for value in (low, (low + high) / 2, high):
        made = alone.candidate({**middle(alone), "budget": value})
        assert float(schedule_of(made.canonical, 144).budget(144)) == pytest.approx(value, abs=0.01)


def test_a_floor_above_the_whole_range_is_infeasible_still():
    narrow = proposals("vscan", 8, 144)
    rng = random.Random(1)
    assert not all(is_policy(narrow, point(narrow, rng)) for _ in range(60))
