"""A policy's stages one by one at absolute layers: curves become stages, a curve's solved number is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from autoprune.policy.budget import PARK, Infeasible, Step, count_steps, fractional_budget
from autoprune.policy.curves import GRID, CurveSpec, Span, build, solve_range
from autoprune.policy.model import AnyStage, CurveStage, Stage
from autoprune.policy.resolved import Keep
from autoprune.policy.sites import absolute

if TYPE_CHECKING:
    from autoprune.policy.document import Policy


@dataclass(frozen=True)
class Placed:
    """One reduction before decoder layer `layer`; `stage` is where its parts are written, `origin` its number in
    the document."""

    site: Literal["projector", "llm"]
    layer: int
    keep: Keep
    stage: AnyStage
    origin: int = 0


def span_of(stage: CurveStage, depth: int) -> Span:
    first, last = (absolute(end, depth) for end in stage.along)
    return Span(first, last, depth)


def expand(policy: Policy, depth: int, tokens: int | None = None) -> tuple[Placed, ...]:
    """Every stage in order, those of a curve wherever its keep changes. Nothing is left out that keeps everything.

    `tokens` is N where all samples share it: a curve's budget is then met in integers. Without it, the curve's number
    is solved for exact fractions, so that a sample's rounding may miss the budget by less than one token per layer.
    Raises `Infeasible`.
    """
    placed: list[Placed] = []
    for number, stage in enumerate(policy.stages):
        if isinstance(stage, Stage):
            parks, restores = stage.merge.name == PARK, stage.restore is not None
            first = stage.at.at(depth)
            last = first if stage.until is None else absolute(stage.until, depth)
            kind = "shared" if stage.until is not None and stage.keep.kind == "to_budget" else stage.keep.kind
            keep = Keep(kind, stage.keep.value, least=stage.keep.least, parks=parks, restores=restores)
            placed += [Placed(stage.at.kind, layer, keep, stage, number) for layer in range(first, last + 1)]
            continue
        before = [(p.layer, p.keep) for p in placed]
        for layer, keep in curve_steps(stage.curve, span_of(stage, depth), before, tokens):
            placed.append(Placed("llm", layer, replace(keep, parks=stage.merge.name == PARK), stage, number))
    return tuple(placed)


def curve_steps(spec: CurveSpec, span: Span, before: list[Step], tokens: int | None) -> list[Step]:
    """(layer, keep) wherever the curve's keep changes; its solved number is the largest that meets the budget."""
    if spec.solve is None:
        return _steps_at(spec, span, None)
    budget = spec.solve.budget
    low, high = solve_range(spec)

    def steps(at: int) -> list[Step]:
        return _steps_at(spec, span, Fraction(at, GRID))

    def spent(at: int) -> Fraction:
        return _budget([*before, *steps(at)], span.depth, tokens)

    first, last = -int(-low * GRID // 1), int(high * GRID)
    if spent(first) > budget:
        raise Infeasible(spent(first) - budget, budget=budget)
    return steps(_largest(lambda at: spent(at) <= budget, first, last))


def _largest(good: Callable[[int], bool], low: int, high: int) -> int:
    """The largest integer in [low, high] for which `good` holds, given that it holds at `low` and is monotone."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if good(middle) else (low, middle - 1)
    return low


def _steps_at(spec: CurveSpec, span: Span, solved: Fraction | None) -> list[Step]:
    curve = build(spec, solved)
    result: list[Step] = []
    current = Fraction(1)
    for layer in range(span.first, span.last + 1):
        keep = curve.keep(layer, span)
        if keep < current:
            current = keep
            result.append((layer, Keep("fraction", keep)))
    return result


def _budget(steps: list[Step], depth: int, tokens: int | None) -> Fraction:
    if tokens is None:
        return fractional_budget(steps, depth)
    total, current, reached = 0, tokens, 0
    for (layer, _), count in zip(steps, count_steps(steps, tokens, depth, [0] * len(steps)), strict=True):
        total, current, reached = total + current * (layer - reached), count, layer
    return Fraction(total + current * (depth - reached), depth * tokens) if tokens else Fraction(0)
