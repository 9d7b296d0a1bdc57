"""Which values of a search space reproduce a policy.

The policy's stages are laid on the space's stages in every order-preserving way; a stage of the space that gets none is
left to keep everything. For each, holes are read off the policy, and the values count only if filling them gives the
same canonical form. So a wrong guess here can cost a warm start, never make a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import combinations, islice, product
from typing import TYPE_CHECKING, Any

from autoprune.errors import AutoPruneError
from autoprune.policy.bound import BUDGET, BoundSpace
from autoprune.policy.budget import budget as budget_of
from autoprune.policy.budget import fractional_budget, lengths, steps_of
from autoprune.policy.canonical import digest, resolve
from autoprune.policy.model import CurveStage, Stage
from autoprune.policy.parameters import SNAP, Param, from_simplex
from autoprune.policy.reading_off import Reader, ends

if TYPE_CHECKING:
    from autoprune.policy.document import Policy
    from autoprune.policy.resolved import ResolvedPolicy

ATTEMPTS = 2000


def express(bound: BoundSpace, policy: Policy) -> dict[str, Any] | None:
    """See `BoundSpace.express`."""
    parts = bound.space.parts
    if parts is None:
        raise ValueError("a space without parts cannot express policies")
    tokens = bound.geometry.tokens_per_image
    try:
        target = resolve(policy, bound.geometry, parts, tokens)
        wanted = digest(target)
        budget = _budget(bound, policy, target, tokens)
    except AutoPruneError:
        return None
    for guess in islice(_guesses(bound, policy, target), ATTEMPTS):
        values = _complete(bound, guess, budget)
        if values is None:
            continue
        try:
            if digest(resolve(bound.fill(values), bound.geometry, parts, tokens)) == wanted:
                return values
        except AutoPruneError:
            continue
    return None


def _budget(bound: BoundSpace, policy: Policy, target: ResolvedPolicy, tokens: int | None) -> Fraction | None:
    """The budget to ask for: what the policy itself asks for, else what it uses, rounded up to 1/1000."""
    if bound.space.budget is None:
        return None
    last = policy.stages[-1] if policy.stages else None
    if isinstance(last, Stage) and last.keep.kind == "to_budget":
        return last.keep.value
    if isinstance(last, CurveStage) and last.curve.solve is not None:
        return last.curve.solve.budget
    if tokens:
        used = Fraction(budget_of([lengths(target, tokens)], [tokens], target.depth))
    else:
        try:
            used = fractional_budget(steps_of(target), target.depth)
        except ValueError:
            return None
    return Fraction(math.ceil(used * SNAP), SNAP)


def _guesses(bound: BoundSpace, policy: Policy, target: ResolvedPolicy) -> Iterator[dict[str, Any]]:
    """Values by definition name (not yet by sampled parameter) for every alignment and choice of options."""
    template = bound.space.template["stages"]
    choices = [p for p in bound.space.params if p.kind == "choice"]
    ranges = [isinstance(stage, Mapping) and "along" in stage for stage in template]
    for options in product(*(range(len(p.options)) for p in choices)):
        chosen = {p.name: i for p, i in zip(choices, options, strict=True)}
        reader = Reader(bound, target, chosen)
        if any(ranges):
            if ranges == [ends(s) is not None for s in policy.stages]:
                yield {**chosen, **reader.curves(policy)}
            continue
        for rows in combinations(range(len(template)), len(target.stages)):
            yield {**chosen, **reader.stages(rows)}


def _complete(bound: BoundSpace, guess: Mapping[str, Any], budget: Fraction | None) -> dict[str, Any] | None:
    """A value for every sampled parameter: those read off, else the one that prunes least or stands in the middle."""
    values: dict[str, Any] = {}
    if bound.space.budget is not None and bound.space.budget[0] < bound.space.budget[1]:
        low, high = bound.space.budget
        if budget is None or not low <= budget <= high:
            return None
        values[BUDGET] = float(budget)
    if not _layers(bound, guess, values):
        return None
    for param in bound.space.params:
        if param.kind == "weights":
            weights = guess.get(param.name) or (Fraction(1, len(param.names)),) * len(param.names)
            values |= {f"{param.name}[{i}]": u for i, u in enumerate(from_simplex(weights))}
        elif param.kind == "choice":
            values[param.name] = param.labels[guess[param.name]]
        elif param.kind in ("float", "int"):
            number = Fraction(guess.get(param.name, _default(bound, param)))
            number = min(max(number, Fraction(param.low)), Fraction(param.high))  # may still give the same count
            values[param.name] = int(number) if param.kind == "int" else float(number)
    return values


def _layers(bound: BoundSpace, guess: Mapping[str, Any], values: dict[str, Any]) -> bool:
    """Layers as the sampler knows them; those not read off stand as early as they can."""
    layers: dict[str, int] = {}
    for name, slot in bound.slots.items():
        layer = guess.get(name, slot.lowest(layers))
        gap = slot.gap_of(layer, layers)
        if gap is None:
            return False
        layers[name] = layer
        values[name] = gap if slot.gap else layer
    return True


def _default(bound: BoundSpace, param: Param) -> Fraction:
    """1 for a keep (nothing is dropped), else the lowest value."""
    return Fraction(param.high if param.name in bound.keeps else param.low)
