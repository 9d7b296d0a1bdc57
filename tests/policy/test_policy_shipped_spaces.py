"""Every point a shipped space can propose is a policy that a model can carry out, or says it is infeasible."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from policy_fakes import geometry

from autoprune.document.yaml import read
from autoprune.policy import catalog
from autoprune.policy.budget import Infeasible, budget, lengths
from autoprune.policy.canonical import resolve
from autoprune.policy.document import Policy
from autoprune.policy.scale import at_budget
from autoprune.policy.space import Space
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.plan import make_plan

PARTS = RegisteredParts()
DRAWS = 24


def draw(parameter: Any, rng: random.Random) -> Any:
    if parameter.kind == "choice":
        return rng.choice(parameter.choices)
    return (rng.randint if parameter.kind == "int" else rng.uniform)(parameter.low, parameter.high)


@pytest.mark.parametrize("shape", [(32, 576, 24), (8, 144, 5)], ids=["7b", "reference"])
@pytest.mark.parametrize("name", [n for n in catalog.names("search_spaces") if n != "arms"])
def test_points_are_policies_for_the_model(name: str, shape: tuple[int, int, int]) -> None:
    depth, tokens, blocks = shape
    plain = geometry(depth, tokens, blocks)
    model = replace(plain, vision=replace(plain.vision, has_cls=True))
    bound = Space.from_source(read(catalog.find("search_spaces", name)), PARTS, model).bind(model)
    rng, spent = random.Random(1), []
    for _ in range(DRAWS):
        values = {p.name: draw(p, rng) for p in bound.parameters}
        try:
            resolved = resolve(bound.fill(values), model, PARTS, tokens)
        except Infeasible:
            continue
        make_plan(resolved, model)
        spent.append(budget([lengths(resolved, tokens)], [tokens], depth))
    assert len(spent) >= DRAWS / 6
    assert max(spent) - min(spent) > 0.1  # the space is a range of budgets, not a point
    if bound.space.budget is not None:
        assert max(spent) <= bound.space.budget[1] + 1e-9


@pytest.mark.parametrize("name", [n for n in catalog.names("search_spaces") if n != "arms"])
def test_what_a_space_starts_from_is_in_the_catalog(name: str) -> None:
    space = Space.from_source(read(catalog.find("search_spaces", name)), PARTS, None)
    assert space.warm_start
    for start in space.warm_start:
        Policy.from_source(read(catalog.find("policies", start)), PARTS)


UNPUBLISHED = ("g_search", "logistic", "p_sigmoid")  # families whose paper names no single policy
YARDSTICKS = ("pooling", "random", "stride", "uniform")  # what methods are held against: nothing but a count to tune
WITHIN = {"fopru_rank": "fopru", "fopru_row": "fopru", "prumerge": "prumerge", "prumerge_plus": "prumerge"}
MIXED = [
    n for n in catalog.names("search_spaces") if n not in (*UNPUBLISHED, *catalog.names("policies"), "fopru", "arms")
]
METHODS = [n for n in catalog.names("policies") if n not in (*YARDSTICKS, "prumerge")]


def contains(space: str, policy: str) -> bool:
    """Whether a study begins with the method, scaled to the middle of the space's budgets."""
    plain = geometry(32, 576, 24)
    model = replace(plain, vision=replace(plain.vision, has_cls=True))
    bound = Space.from_source(read(catalog.find("search_spaces", space)), PARTS, model).bind(model)
    assert policy in bound.warm_start
    published = Policy.from_source(read(catalog.find("policies", policy)), PARTS)
    if bound.budget is not None:
        middle = sum(Fraction(end).limit_denominator(1000) for end in bound.budget) / 2
        published = at_budget(published, middle, model)
    return bound.express(published) is not None


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_space_that_contains_it(name: str) -> None:
    assert contains(WITHIN.get(name, name), name)


@pytest.mark.parametrize("name", MIXED)
def test_a_mixed_space_contains_a_method(name: str) -> None:
    space = Space.from_source(read(catalog.find("search_spaces", name)), PARTS, None)
    assert any(contains(name, start) for start in space.warm_start)
