"""Where stages stand to each other: from shallow to deep, one per site, keep never rising, a budget met at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

from pydantic import ValidationError

from autoprune.document.problems import Problem
from autoprune.policy.budget import PARK
from autoprune.policy.curves import build
from autoprune.policy.curves.steps import Steps
from autoprune.policy.expand import span_of
from autoprune.policy.model import AnyStage, CurveStage, Stage
from autoprune.policy.sites import Layer, absolute, layer_text
from autoprune.policy.wrong import AMOUNT, PLACE, Wrong, wrong_in

if TYPE_CHECKING:
    from autoprune.policy.document import Policy

COMING_BACK = frozenset({"merge", "restore"})


def order_problems(
    policy: Policy, depth: int | None, wrong: Wrong = MappingProxyType({}), *, placed: bool = True
) -> list[Problem]:
    """Mistakes in the order of a policy's stages. Without `depth`, integers and fractions are not compared. `wrong`:
    keys of stages that did not read well; without `placed` layers are stand-ins, of whose order nothing is said."""
    there = [stage for stage in policy.stages if not wrong_in(stage, wrong) & PLACE]
    problems = [*_budgets(policy), *_restored(policy, wrong)]
    if placed:
        problems += [*_sites(there, depth), *_rising(_amounts(policy, wrong), depth)]
    if depth is not None:
        problems += _beyond(there, depth, placed)
    return problems


def _amounts(policy: Policy, wrong: Wrong) -> list[AnyStage]:
    """The stages whose keeps can be compared; none where a mistake may change how much comes back."""
    whole = [stage for stage in policy.stages if not wrong_in(stage, wrong) & (PLACE | AMOUNT | COMING_BACK)]
    returns = any(isinstance(stage, Stage) and stage.restore is not None for stage in policy.stages)
    if len(whole) < len(policy.stages) and (returns or any("restore" in keys for keys in wrong.values())):
        return []
    return whole


def _place(stage: AnyStage, end: int) -> Layer | None:
    """A stage's first (0) or last (1) layer; None at the projector."""
    if isinstance(stage, Stage):
        return stage.at.layer if end == 0 or stage.until is None else stage.until
    return stage.along[end]


def _where(stage: AnyStage) -> tuple[str | int, ...]:
    return (*stage.path, "at" if isinstance(stage, Stage) and stage.until is None else "along")


def _below(a: Layer, b: Layer, depth: int | None) -> int:
    """-1, 0, 1 as a is above, at or below b; -1 where that depends on the depth."""
    if depth is not None:
        a, b = absolute(a, depth), absolute(b, depth)
    elif type(a) is not type(b):
        return 1 if b == 0 else -1
    return (a > b) - (a < b)


def _sites(stages: Sequence[AnyStage], depth: int | None) -> Iterator[Problem]:
    for stage, later in pairwise(stages):
        last, first = _place(stage, 1), _place(later, 0)
        if first is None:
            message = "a second stage at projector" if last is None else "projector stands after a deeper stage"
            yield Problem(_where(later), "wrong-order", f"{message}: stages go from shallow to deep, one per site")
            continue
        if last is None:
            continue
        side = _below(last, first, depth)
        if side > 0:
            shown = f"llm:{layer_text(first)} after llm:{layer_text(last)}"
            yield Problem(_where(later), "wrong-order", f"{shown}: stages go from shallow to deep")
        elif side == 0 and not _met(last, first):
            yield Problem(_where(later), "wrong-order", f"a second stage at llm:{layer_text(first)}: one per site")


def _met(last: Layer, first: Layer) -> bool:
    """Whether two fractions that differ meet only because the model is shallow: the stages then run one after the
    other before that layer."""
    return last != first and isinstance(last, Fraction) and isinstance(first, Fraction)


def _rising(stages: Sequence[AnyStage], depth: int | None) -> Iterator[Problem]:
    """Absolute keeps only fall; `of_current` cannot rise. Only what was parked comes back."""
    fraction, tokens, away = Fraction(1), None, Fraction(0)
    for stage in stages:
        if isinstance(stage, Stage) and stage.restore is not None:
            fraction, tokens, away = fraction + away, None, Fraction(0)
        before = fraction
        if isinstance(stage, CurveStage):
            if stage.curve.solve is not None or depth is None:
                continue
            span = span_of(stage, depth)
            top, bottom = (build(stage.curve).keep(end, span) for end in (span.first, span.last))
            if top > fraction:
                yield _rise((*stage.path, "curve"), top, fraction)
            fraction = min(fraction, bottom)
        elif stage.keep.kind == "fraction":
            if stage.keep.value > fraction:
                yield _rise((*stage.path, "keep"), stage.keep.value, fraction)
            fraction = min(fraction, stage.keep.value)
        elif stage.keep.kind == "tokens":
            if tokens is not None and stage.keep.value > tokens:
                yield _rise((*stage.path, "keep", "tokens"), stage.keep.value, tokens)
            tokens = stage.keep.value
        elif stage.keep.kind == "of_current":
            fraction *= stage.keep.value
        away += before - fraction if stage.merge.name == PARK else 0


def _restored(policy: Policy, wrong: Wrong) -> Iterator[Problem]:
    """Something was parked before it is restored; what a rule has parked has no count that a budget could follow."""
    parked = ruled = surprise = False
    for stage in policy.stages:
        if isinstance(stage, Stage) and stage.restore is not None:
            if not parked:
                yield Problem(
                    (*stage.path, "restore"), "nothing-parked", "no stage before has anything to restore: `merge: park`"
                )
            surprise |= parked and ruled
            parked = False
        if surprise and (solved := _solved(stage)) is not None:
            yield Problem(
                solved, "conflict", "to_budget cannot follow where a `restore` brings back what a count rule has parked"
            )
        ruled |= isinstance(stage, Stage) and stage.keep.kind == "rule"
        parked |= stage.merge.name == PARK or "merge" in wrong_in(stage, wrong)


def _rise(path: tuple[str | int, ...], now: Fraction, before: Fraction) -> Problem:
    def shown(value: Fraction) -> str:
        return str(value) if value.denominator < 1000 else f"{float(value):.4g}"

    return Problem(path, "keep-rises", f"keep rises with depth: {shown(now)} after {shown(before)}")


def _budgets(policy: Policy) -> Iterator[Problem]:
    """At most one keep follows from a budget, in the last stage."""
    solved = [stage for stage in policy.stages if _solved(stage) is not None]
    for stage in solved[1:]:
        yield Problem(
            _solved(stage) or (), "second-budget", "a second to_budget: one keep of a policy can follow from the budget"
        )
    if len(solved) == 1 and solved[0] is not policy.stages[-1]:
        yield Problem(_solved(solved[0]) or (), "budget-not-last", "to_budget stands in the last stage of a policy")


def _solved(stage: AnyStage) -> tuple[str | int, ...] | None:
    if isinstance(stage, Stage):
        return (*stage.path, "keep", "to_budget") if stage.keep.kind == "to_budget" else None
    solve = stage.curve.solve
    return None if solve is None else (*stage.path, "curve", stage.curve.name, *solve.path)


def _beyond(stages: Sequence[AnyStage], depth: int, placed: bool) -> Iterator[Problem]:
    """Layers the model does not have, ranges that go backwards in it, and steps outside their curve's range."""
    for stage in stages:
        if isinstance(stage, Stage):
            if stage.until is not None:
                yield from _range(stage, (stage.at.layer or 0, stage.until), depth, placed)
            elif stage.at.at(depth) >= depth:
                yield Problem(_where(stage), "beyond-model", _too_deep(stage.at.text, depth), offset=len("llm:"))
            continue
        yield from _range(stage, stage.along, depth, placed)
        if placed:
            yield from _outside(stage, depth)


def _range(stage: AnyStage, along: tuple[Layer, Layer], depth: int, placed: bool) -> Iterator[Problem]:
    first, last = (absolute(end, depth) for end in along)
    for i, end in enumerate((first, last)):
        if end >= depth:
            yield Problem((*_where(stage), i), "beyond-model", _too_deep(f"llm:{layer_text(along[i])}", depth))
    if placed and last < first:
        yield Problem(_where(stage), "wrong-order", f"along goes from shallow to deep, not from {first} to {last}")


def _too_deep(site: str, depth: int) -> str:
    return f"{site} is beyond the model: its {depth} decoder layers are 0 to {depth - 1}"


def _outside(stage: CurveStage, depth: int) -> Iterator[Problem]:
    span = span_of(stage, depth)
    try:
        curve = build(stage.curve, Fraction(0)) if stage.curve.solve is None else None
    except ValidationError:
        return
    if isinstance(curve, Steps):
        for i, (place, _) in enumerate(curve.steps):
            if not span.first <= absolute(place, depth) <= span.last:
                path = (*stage.path, "curve", "steps", i, 0)
                yield Problem(path, "outside-along", f"the step at {layer_text(place)} lies outside `along`")
