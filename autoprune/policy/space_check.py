"""A space held against the parts and a model: placement ranges, and the policies at the ends of every parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from autoprune.document.problems import Path, Problem, Problems
from autoprune.policy.document import read_policy
from autoprune.policy.geometry import Geometry, VisionGeometry
from autoprune.policy.placing import empty
from autoprune.policy.sites import absolute
from autoprune.policy.validate import order_problems, problems

if TYPE_CHECKING:
    from autoprune.policy.bound import BoundSpace
    from autoprune.policy.space import Space


def model_problems(space: Space, geometry: Geometry | None) -> list[Problem]:
    """Mistakes that show once layers are numbers. Without a model, a depth is assumed in which every layer exists."""
    bound = space.bind(geometry or _nominal(space))
    found = _ranges(bound) if geometry is not None else []
    blank = empty(tuple(bound.slots.values()))
    paths = {p.name: p.path for p in space.params}
    for name in blank:
        slot = bound.slots[name]
        after = f" after {', '.join(slot.after)}" if slot.after else ""
        depth = f" in a model of {bound.geometry.depth} layers" if geometry is not None else ""
        found.append(Problem((*paths[name], "layer"), f"an empty placement range for {name!r}{after}{depth}"))
    if found:
        return found
    seen: dict[Path, Problem] = {}
    for values in _corners(bound):
        for problem in _filled(bound, values, geometry):
            seen.setdefault(problem.path, problem)
    return list(seen.values())


def _nominal(space: Space) -> Geometry:
    """A stand-in model that is deep enough for every layer the space names."""
    named = [end for p in space.params if p.kind == "layer" for end in (p.low, p.high) if isinstance(end, int)]
    depth = 4 * max([8, *named])
    return Geometry("any", depth, 1, 1, 1, 1, 1, 1, VisionGeometry(depth, 1, 1, 1, 1, 1), None)


def _ranges(bound: BoundSpace) -> list[Problem]:
    """Ends of layer ranges that the model does not have."""
    depth = bound.geometry.depth
    return [
        Problem(
            (*p.path, "layer", i), f"layer {end} is beyond the model: its {depth} decoder layers are 0 to {depth - 1}"
        )
        for p in bound.space.params
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
        for value in p.choices[1:] if p.kind == "choice" else (p.high,):
            yield {**base, p.name: value}
            if p.kind == "choice":
                yield {**base, p.name: value, **{q.name: q.high for q in bound.parameters if q.kind != "choice"}}


def _filled(bound: BoundSpace, values: Mapping[str, Any], geometry: Geometry | None) -> list[Problem]:
    found = Problems()
    policy = read_policy(bound.document(values), found)
    if policy is not None and bound.space.parts is not None:
        found.extend(problems(policy, bound.space.parts, geometry))
    elif policy is not None:
        found.extend(order_problems(policy, None if geometry is None else geometry.depth))
    return list(found)
