"""A space held against the parts and a model: placement ranges, and the policies at the ends of every parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autoprune.document.problems import Path, Problem, Problems
from autoprune.policy.beside import problems_beside
from autoprune.policy.document import read_partly
from autoprune.policy.geometry import Geometry, VisionGeometry
from autoprune.policy.holes import REFERENCE
from autoprune.policy.parameters import Param
from autoprune.policy.placing import empty
from autoprune.policy.sites import absolute

if TYPE_CHECKING:
    from autoprune.policy.bound import BoundSpace
    from autoprune.policy.space import Space

APART = (("stages",), ("criteria",), ("warm_start",), ("name",), ("schema",))  # mistakes here move no layer


def model_problems(space: Space, geometry: Geometry | None, frame: Sequence[Problem] = ()) -> list[Problem]:
    """Mistakes that show once layers are numbers. Without a model, a depth is assumed in which every layer exists.
    `frame`: what was found of the space already, which hides no other mistake, and from which none follows."""
    placed = all(p.path[:1] in APART for p in frame)
    found = _ranges(space, geometry.depth) if geometry is not None else []
    if found and geometry is not None:
        placed, space = False, replace(space, params=tuple(_within(p, geometry.depth) for p in space.params))
    bound = space.bind(geometry or _nominal(space))
    blank = empty(tuple(bound.slots.values()))
    paths = {p.name: p.path for p in space.params}
    for name in blank if not found else ():
        slot = bound.slots[name]
        after = f" after {', '.join(slot.after)}" if slot.after else ""
        depth = f" in a model of {bound.geometry.depth} layers" if geometry is not None else ""
        found.append(
            Problem((*paths[name], "layer"), "empty-range", f"an empty placement range for {name!r}{after}{depth}")
        )
    if blank:
        placed, bound = False, _placeable(space).bind(bound.geometry)
    said = {p.path for p in (*frame, *found)}
    seen: dict[Path, Problem] = {}
    for values in _corners(bound):
        for problem in _filled(bound, values, geometry, placed):
            if not any(problem.path[:n] in said for n in range(len(problem.path) + 1)):
                seen.setdefault(problem.path, problem)
    return [*found, *seen.values()]


def _placeable(space: Space) -> Space:
    """The same with every layer anywhere at or below the lowest end of its range."""
    params = (replace(p, high=p.low) if p.kind == "layer" else p for p in space.params)
    return replace(space, params=tuple(params), order=())


def _within(param: Param, depth: int) -> Param:
    """The same with both ends inside the model."""
    if param.kind != "layer":
        return param
    low, high = (end if absolute(end, depth) < depth else depth - 1 for end in (param.low, param.high))
    return replace(param, low=low, high=high)


def _nominal(space: Space) -> Geometry:
    """A stand-in model that is deep enough for every layer the space names."""
    named = [end for p in space.params if p.kind == "layer" for end in (p.low, p.high) if isinstance(end, int)]
    depth = 4 * max([8, *named])
    return Geometry("any", depth, 1, 1, 1, 1, 1, 1, VisionGeometry(depth, 1, 1, 1, 1, 1), None)


def _ranges(space: Space, depth: int) -> list[Problem]:
    """Ends of layer ranges that the model does not have."""
    return [
        Problem(
            (*p.path, "layer", i),
            "beyond-model",
            f"layer {end} is beyond the model: its {depth} decoder layers are 0 to {depth - 1}",
        )
        for p in space.params
        if p.kind == "layer"
        for i, end in enumerate((p.low, p.high))
        if absolute(end, depth) >= depth
    ]


def _corners(bound: BoundSpace) -> Iterator[dict[str, Any]]:
    """Every parameter at its lowest and highest (or at each option), the others at their lowest; and the middle of all
    numbers, because whole ends may hide that a number between them cannot stand there (a layer, a count)."""
    base: dict[str, Any] = {p.name: p.choices[0] if p.kind == "choice" else p.low for p in bound.parameters}
    yield base
    numbers = [p for p in bound.parameters if p.kind == "float"]
    yield {**base, **{p.name: (float(p.low or 0) + float(p.high or 0)) / 2 for p in numbers}}
    for p in bound.parameters:
        chosen = {**base, **_around(bound, p.name)}
        for value in p.choices[1:] if p.kind == "choice" else (p.high,):
            yield {**chosen, p.name: value}
            if p.kind == "choice":
                yield {**chosen, p.name: value, **{q.name: q.high for q in bound.parameters if q.kind != "choice"}}


def _around(bound: BoundSpace, name: str) -> dict[str, Any]:
    """The options of choices in which an inline parameter stands: only with them does it tell."""
    paths = [p.path for p in bound.space.params if p.name == name]
    choices = [(p, (*p.path, "choice")) for p in bound.space.params if p.kind == "choice" and p.name != name]
    return {
        p.name: p.labels[int(path[len(inside)])]
        for path in paths
        for p, inside in choices
        if path[: len(inside)] == inside
    }


def _filled(bound: BoundSpace, values: Mapping[str, Any], geometry: Geometry | None, placed: bool) -> Iterator[Problem]:
    found = Problems(Problem(path, "hole-in-policy", "left out") for path in bound.space.left_out)
    policy = read_partly(bound.document(values), found)
    if policy is not None:
        found.extend(problems_beside(list(found), policy, bound.space.parts, geometry, placed=placed))
    for problem in found:
        if not any(problem.path[: len(path)] == path for path in bound.space.left_out):
            yield at_its_definition(problem, bound, values)


def at_its_definition(problem: Problem, bound: BoundSpace, values: Mapping[str, Any]) -> Problem:
    """The problem where it is written: in a choice's option or a name of weights, not where the parameter is used."""
    params = {p.name: p for p in bound.space.params}
    by_path = {p.path: p for p in bound.space.params}
    here: Any = bound.space.template
    path: Path = ()
    for n in range(len(problem.path) + 1):
        while (param := by_path.get(path) or _named(here, params)) is not None:
            rest = problem.path[n:]
            if param.kind == "weights" and rest and rest[-1] in param.names:
                path = (*param.path, "weights", param.names.index(str(rest[-1])))
                return replace(problem, path=path, key=False)
            if param.kind != "choice":
                break
            index = param.labels.index(values[param.name])
            path, here = (*param.path, "choice", index), param.options[index]
        if n == len(problem.path):
            break
        step = problem.path[n]
        inside = isinstance(here, Mapping) and step in here
        listed = isinstance(here, list | tuple) and isinstance(step, int) and step < len(here)
        here = here[step] if inside or listed else None
        path = (*path, step)
    return replace(problem, path=path)


def _named(value: Any, params: Mapping[str, Param]) -> Param | None:
    """The parameter that a value refers to as a whole."""
    match = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else params.get(match[1])
