"""A curve and the layers it runs along, as written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from autoprune.document.problems import Path, Problems, from_pydantic, shown, suggest
from autoprune.errors import Mistake
from autoprune.policy.curves import CURVES, CurveSpec, Solve, build, replaced, solve_range
from autoprune.policy.read_fields import number
from autoprune.policy.sites import Layer, layer_of


def read_along(value: Any, path: Path, found: Problems) -> tuple[Layer, Layer] | None:
    if not isinstance(value, list) or len(value) != 2:
        found.add(path, "not-a-range", f"along is [first layer, last layer], not {shown(value)}")
        return None
    ends: list[Layer] = []
    for i, end in enumerate(value):
        try:
            ends.append(layer_of(end))
        except Mistake as error:
            found.add((*path, i), error.code, str(error))
    if len(ends) != 2:
        return None
    if type(ends[0]) is type(ends[1]) and ends[1] < ends[0]:
        found.add(path, "wrong-order", f"along goes from shallow to deep, not from {ends[0]} to {ends[1]}")
        return None
    return ends[0], ends[1]


def read_curve(value: Any, path: Path, found: Problems) -> CurveSpec | None:
    """One formula with its numbers; at most one number is `{to_budget: B}`."""
    if not isinstance(value, Mapping) or len(value) != 1:
        found.add(
            path, "wrong-type", f"a curve is a mapping with one key, one of {', '.join(CURVES)}; not {shown(value)}"
        )
        return None
    name, params = next(iter(value.items()))
    inside = (*path, name)
    if name not in CURVES:
        found.add(
            inside,
            "unknown-part",
            f"unknown curve {name!r}; available: {', '.join(CURVES)}{suggest(name, CURVES)}",
            key=True,
        )
        return None
    before = len(found)
    solve = _read_solve(name, params, inside, found)
    if len(found) > before:
        return None
    spec = CurveSpec(name, params if solve is None else replaced(params, solve.path, None), solve, path)
    try:
        build(spec, None if solve is None else solve_range(spec)[1])
    except ValidationError as error:
        problems = from_pydantic(error, model=CURVES[name], data={"steps": params} if name == "steps" else params)
        for p in problems:
            found.add((*inside, *(p.path[1:] if name == "steps" else p.path)), p.code, p.message, key=p.key)
        return None
    except (ValueError, KeyError, IndexError, TypeError):
        build_without = "a number that the budget decides needs all other numbers of the curve to be right"
        found.add(inside, "not-solvable", f"{build_without}; given: {shown(params)}")
        return None
    return spec


def _read_solve(name: str, params: Any, path: Path, found: Problems) -> Solve | None:
    """The number that is written `{to_budget: B}`, if any."""
    places = [(p, v) for p, v in _leaves(params) if isinstance(v, Mapping) and "to_budget" in v]
    if len(places) > 1:
        found.add((*path, *places[1][0]), "second-budget", "only one number of a curve can follow from the budget")
    if not places:
        return None
    place, value = places[0]
    solvable = CURVES[name].solvable
    right = len(place) == 2 and place[1] == 1 if name == "steps" else len(place) == 1 and place[0] in solvable
    if not right:
        allowed = "a keep" if name == "steps" else ", ".join(solvable)
        found.add(
            (*path, *place), "not-solvable", f"this number cannot follow from the budget; in {name} one can: {allowed}"
        )
        return None
    if len(value) != 1:
        found.add((*path, *place), "wrong-type", f"must be {{to_budget: B}}, not {shown(dict(value))}")
        return None
    budget = number(value["to_budget"], (*path, *place, "to_budget"), found)
    return None if budget is None else Solve(place, budget)


def _leaves(value: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    if isinstance(value, Mapping) and "to_budget" not in value:
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for i, inner in enumerate(value) for leaf in _leaves(inner, (*path, i))]
    return [(path, value)]


def plain_curve(spec: CurveSpec) -> Any:
    """The curve as a document writes it."""
    from autoprune.document.numbers import text

    if spec.solve is None:
        return {spec.name: spec.params}
    return {spec.name: replaced(spec.params, spec.solve.path, {"to_budget": text(spec.solve.budget)})}
