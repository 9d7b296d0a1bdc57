"""How little a policy of a space can cost: never above what some point of it costs, and near the cheapest one."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from policy_fakes import geometry

from autoprune.document.yaml import read
from autoprune.policy import catalog
from autoprune.policy.bound import BoundSpace
from autoprune.policy.budget import Infeasible, budget, lengths
from autoprune.policy.canonical import resolve
from autoprune.policy.reachable import reachable
from autoprune.policy.space import Space
from autoprune.pruning.lookup import RegisteredParts

PARTS = RegisteredParts()
LAST = {"llm_attention": {"from": "last"}}
TOKENS, DEPTH = 144, 8


def bind(data: Any) -> BoundSpace:
    plain = geometry(DEPTH, TOKENS, 5)
    model = replace(plain, vision=replace(plain.vision, has_cls=True))
    if isinstance(data, str):
        return Space.from_source(read(catalog.find("search_spaces", data)), PARTS, model).bind(model)
    return Space.parse({"schema": "autoprune/space/1", "name": "s", **data}, PARTS, model).bind(model)


def costs(bound: BoundSpace, draws: int) -> list[float]:
    """Budgets of random points that like the ends of their ranges."""
    rng, found = random.Random(3), []
    for _ in range(draws):
        values = {
            p.name: rng.choice(
                p.choices or (p.low, p.low, p.high, (p.low + p.high) / 2 if p.kind == "float" else p.high)
            )
            for p in bound.parameters
        }
        try:
            resolved = resolve(bound.fill(values), bound.geometry, PARTS, TOKENS)
        except Infeasible:
            continue
        if not resolved.adaptive:  # what rules find is known on a run
            found.append(budget([lengths(resolved, TOKENS)], [TOKENS], DEPTH))
    return found


def lowest(bound: BoundSpace, *, rounded: bool) -> float:
    found = reachable(bound)
    assert found is not None
    return float(min(sum(p) / len(p) for p in (found.rounded if rounded else found).profiles))


@pytest.mark.parametrize("name", [n for n in catalog.names("search_spaces") if n != "arms"])
def test_no_point_costs_less(name: str) -> None:
    bound = bind(name)
    assert min(costs(bound, 24), default=1.0) >= lowest(bound, rounded=True)


FIXED = [{"at": "projector", "keep": {"float": [0.2, 1.0]}, "score": "feature_norm"}]
TWO = [*FIXED, {"at": {"choice": ["llm:6", "llm:3"]}, "keep": {"of_current": {"float": [0.25, 1.0]}}, "score": LAST}]
SOLVED = [{"at": "llm:2", "keep": "solve", "score": LAST}]
SIGMOID = {"low": {"float": [0.1, 0.3]}, "high": 1, "mid": 0.5, "slope": {"float": [2, 40]}}
CASES = [
    ({"stages": FIXED}, 0.2),
    ({"stages": TWO}, (3 * 0.2 + 5 * 0.05) / 8),
    ({"stages": SOLVED, "budget": {"float": [0.4, 0.6]}}, 0.4),
    ({"stages": [*FIXED, *SOLVED], "budget": {"float": [0.4, 0.6]}}, 0.2),  # already below the budget
]


@pytest.mark.parametrize(("space", "expected"), CASES)
def test_the_bound_is_what_the_cheapest_point_costs(space: dict[str, Any], expected: float) -> None:
    bound = bind(space)
    assert lowest(bound, rounded=False) == pytest.approx(expected)
    assert min(costs(bound, 60)) == pytest.approx(expected, abs=1 / TOKENS)


def test_a_stage_that_solves_cannot_undo_what_came_before_it() -> None:
    """Two of eight layers see everything: budgets below a quarter are out of reach, those just above are not."""
    bound = bind({"stages": SOLVED, "budget": {"float": [0.1, 0.6]}})
    assert lowest(bound, rounded=False) == 0.25
    policy = resolve(bound.fill({"budget": 0.26}), bound.geometry, PARTS, TOKENS)
    assert 0.25 < budget([lengths(policy, TOKENS)], [TOKENS], DEPTH) <= 0.26
    with pytest.raises(Infeasible):
        resolve(bound.fill({"budget": 0.25}), bound.geometry, PARTS, TOKENS)


def test_a_curve_is_bounded_layer_by_layer() -> None:
    bound = bind({"stages": [{"along": [1, 7], "curve": {"p_sigmoid": SIGMOID}, "score": LAST}]})
    least = lowest(bound, rounded=False)
    assert 0.3 < least <= min(costs(bound, 60)) <= least + 0.15


def test_in_doubt_nothing_is_claimed() -> None:
    rule = {"rule": "outlier", "least": "1/10", "most": {"float": [0.2, 0.5]}}
    assert lowest(bind({"stages": [{**FIXED[0], "keep": rule}]}), rounded=False) == 0.1
    tokens = {**FIXED[0], "keep": {"tokens": {"int": [20, 40]}}}
    assert lowest(bind({"stages": [tokens]}), rounded=False) == 0
    choice = {"of_current": {"choice": ["1/2", "1/3", "1/4"]}}
    many = [{"at": f"llm:{layer}", "keep": choice, "score": LAST} for layer in range(1, 8)]
    assert reachable(bind({"stages": many[:5]})) is not None
    assert reachable(bind({"stages": many})) is None
