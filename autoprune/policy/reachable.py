"""How little can a policy of a search space cost? Bounds from below, found without running and without a sampler.

What enters a layer never rises when a keep falls or a stage comes earlier, so all keeps stand at their low ends and all
stages at their earliest layers; where the direction is not known beforehand (a curve's numbers, a choice) both ends or
all options are tried, and every layer gets the least. In doubt a bound is too low, never too high: a rule finds its
`least`, a keep in tokens nothing (N may be large), restored tokens do not come back, rounding takes half a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput
from autoprune.policy.curves import build, solve_range
from autoprune.policy.expand import span_of
from autoprune.policy.holes import holes
from autoprune.policy.model import AnyStage, CurveStage
from autoprune.policy.sites import absolute

if TYPE_CHECKING:
    from autoprune.policy.bound import BoundSpace

COUNTING = {"keep", "at", "along", "curve", "fit"}  # keys of a stage that say where and how much
EITHER_WAY = {"along", "curve"}
MOST = 256  # points that are tried: `validate` should not take seconds
NOMINAL = 64  # tokens of an image, at least, where images differ

Shares = tuple[Fraction, ...]


@dataclass(frozen=True)
class Reachable:
    """Fractions of N entering each decoder layer, from below: `open` where no stage meets a budget, `squeezed` where
    that stage drops everything. `budget` is the lowest one that such a stage is asked for (None: there is no such
    stage). Counts are not rounded: `rounded` is below whatever rounding does where `token` is 1/N."""

    open: Shares
    squeezed: Shares
    budget: Fraction | None
    token: Fraction

    @property
    def rounded(self) -> Reachable:
        layers = [tuple(max(Fraction(0), s - self.token / 2) for s in shares) for shares in (self.open, self.squeezed)]
        budget = None if self.budget is None else max(Fraction(0), self.budget - self.token)
        return Reachable(layers[0], layers[1], budget, self.token)

    @property
    def profiles(self) -> list[Shares]:
        """No policy costs less than the cheapest of these, by anything that grows at least linearly with the tokens of
        each layer, the same in all (for a given sum the even distribution is then the cheapest)."""
        if self.budget is None:
            return [self.open]
        return [self.open, (max(self.budget, self.left),) * len(self.open)]

    @property
    def left(self) -> Fraction:
        """The budget that no stage can get below."""
        return sum(self.squeezed, Fraction(0)) / len(self.squeezed)


def reachable(bound: BoundSpace) -> Reachable | None:
    """The bounds of a space; None where they would take too long, or some end of a range makes no policy."""
    token = Fraction(1, bound.geometry.tokens_per_image or NOMINAL)
    found: list[tuple[Shares, Shares]] = []
    budgets: list[Fraction] = []
    try:
        for number, values in enumerate(_points(bound)):
            if number == MOST:
                return None
            stages = bound.fill(values).stages
            found.append((_shares(stages, bound.geometry.depth, False), _shares(stages, bound.geometry.depth, True)))
            budgets += _budgets(stages)
    except BadInput:
        return None
    either = [_lowest([f[i] for f in found]) for i in (0, 1)]
    return Reachable(either[0], either[1], min(budgets) if budgets else None, token)


def _lowest(found: Sequence[Shares]) -> Shares:
    return tuple(min(layer) for layer in zip(*found, strict=True))


def _points(bound: BoundSpace) -> Iterator[dict[str, Any]]:
    """Numbers at their low ends; those of curves at both, and every option that says where or how much."""
    counting, either = _open(bound)
    base = {p.name: p.choices[0] if p.kind == "choice" else p.low for p in bound.parameters}
    tried: dict[str, Sequence[Any]] = {}
    for p in bound.parameters:
        if p.kind == "choice" and p.name in counting:
            tried[p.name] = p.choices
        elif p.kind != "choice" and p.name in either:
            tried[p.name] = (p.low, p.high)
    for values in product(*tried.values()):
        yield {**base, **dict(zip(tried, values, strict=True))}


def _open(bound: BoundSpace) -> tuple[set[str], set[str]]:
    """Names of the parameters that stand where a stage says how much or where, and those of them whose direction is
    not known: in a curve, or in an option that is chosen there."""
    names = {p.path: p.name for p in bound.space.params}
    counting, either = set[str](), set[str]()
    todo = [(hole, hole.path[2:]) for hole in holes(bound.space.template["stages"], ("stages",))]
    while todo:
        hole, inside = todo.pop()
        name = hole.name or names.get(hole.path)
        if name is None or (inside and not COUNTING & set(inside)):
            continue
        known = name in counting
        counting.add(name)
        if not inside or EITHER_WAY & set(inside):
            either.add(name)
        param = next((p for p in bound.space.params if p.name == name), None)
        if param is not None and param.kind == "choice" and not known:
            nested = holes(list(param.options), (*param.path, "choice"))
            todo += [(inner, ("curve",)) for inner in nested]
    return counting, either


def _budgets(stages: Sequence[AnyStage]) -> Iterator[Fraction]:
    """What stages are asked to meet."""
    for stage in stages:
        if isinstance(stage, CurveStage):
            if stage.curve.solve is not None:
                yield stage.curve.solve.budget
        elif stage.keep.kind == "to_budget":
            yield stage.keep.value


def _shares(stages: Sequence[AnyStage], depth: int, squeeze: bool) -> Shares:
    """What enters each layer. A stage that meets a budget keeps everything, or nothing with `squeeze`."""
    result = [Fraction(1)] * depth
    for stage in stages:
        for layer, share in _drops(stage, depth, squeeze):
            left = share * result[layer] if not isinstance(stage, CurveStage) and _relative(stage) else share
            result[layer:] = [min(before, left) for before in result[layer:]]
    return tuple(result)


def _relative(stage: Any) -> bool:
    return bool(stage.keep.kind == "of_current")


def _drops(stage: AnyStage, depth: int, squeeze: bool) -> Iterator[tuple[int, Fraction]]:
    """(layer, share) of one stage, at every layer where it drops something."""
    if isinstance(stage, CurveStage):
        yield from _along(stage, depth, squeeze)
        return
    first = stage.at.at(depth)
    last = first if stage.until is None else absolute(stage.until, depth)
    least: Mapping[str, Fraction] = {
        "to_budget": Fraction(0 if squeeze else 1),
        "tokens": Fraction(0),
        "rule": stage.keep.least,
    }
    share = least.get(stage.keep.kind, stage.keep.value)
    for layer in range(first, last + 1):
        yield layer, share


def _along(stage: CurveStage, depth: int, squeeze: bool) -> Iterator[tuple[int, Fraction]]:
    span = span_of(stage, depth)
    solved = None
    if stage.curve.solve is not None:
        low, high = solve_range(stage.curve)
        solved = low if squeeze else high
    curve = build(stage.curve, solved)
    for layer in range(span.first, span.last + 1):
        yield layer, curve.keep(layer, span)
