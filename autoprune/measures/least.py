"""Which constraints can no policy of a space meet? Said before anything is measured, with what is possible at least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from autoprune.measures.costs import SampleCost, cache_bytes, decoder_flops, tower_flops
from autoprune.measures.requests import Requested, parse
from autoprune.policy.reachable import reachable

if TYPE_CHECKING:
    from autoprune.errors import Located
    from autoprune.policy.bound import BoundSpace
    from autoprune.policy.geometry import Geometry
    from autoprune.policy.reachable import Reachable, Shares
    from autoprune.spec.goals import Constraint
    from autoprune.spec.load import LoadedSpec

TEXTS = (0, *(2**i for i in range(15)))  # prompt positions: what records hold is not known yet
NOMINAL = 1000  # tokens of an image where images differ
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def unmeetable(loaded: LoadedSpec, bound: BoundSpace, constraints: Sequence[Constraint]) -> list[Located]:
    """The space's own budget and the constraints that no point of the space can meet, at their places."""
    least = reachable(bound)
    if least is None:
        return []
    found = []
    if (message := _own_budget(bound, least)) is not None:
        found.append(loaded.space_source.problem(bound.space.budget_path, "unreachable-bound", message))
    for path, constraint in zip(loaded.constraint_paths, constraints, strict=True):
        if (message := _constraint(constraint, bound.geometry, least, loaded.spec.model.dtype)) is not None:
            found.append(loaded.source.problem(path, "unreachable-bound", message))
    return found


def _own_budget(bound: BoundSpace, least: Reachable) -> str | None:
    if bound.space.budget is None or least.rounded.left <= bound.space.budget[1]:
        return None
    highest, left = float(bound.space.budget[1]), float(least.left)
    return f"no policy of the space can meet a budget of {highest:g}: the lowest it can reach is {left:.4g}"


def _constraint(constraint: Constraint, geometry: Geometry, least: Reachable, dtype: str) -> str | None:
    """Why an upper bound on a cost cannot be met, whatever the prompts; None where it may be, or where nothing is known
    before a run."""
    requested, tokens = parse(constraint.measure), geometry.tokens_per_image
    if constraint.op != "<=" or not requested.info.cost or (tokens is None and requested.info.bounded is None):
        return None
    if any(constraint.slack(own, base) <= 0 for own, base in _pairs(requested, geometry, least.rounded, dtype)):
        return None
    pairs = list(_pairs(requested, geometry, least, dtype))
    if constraint.relative:
        shown = f"{min(own / base for own, base in pairs):.4g} * baseline"
    else:
        shown = f"{min(own for own, _ in pairs):.4g}"
    return f"no policy of the space can meet it: the lowest {constraint.label} it can reach is {shown}"


def _pairs(requested: Requested, geometry: Geometry, least: Reachable, dtype: str) -> Iterator[tuple[float, float]]:
    """(the space's lowest, the unpruned model's) for prompts of several lengths, on one image."""
    ones = (Fraction(1),) * len(least.open)
    for text in TEXTS:
        own, base = (
            [requested.info.run([_sample(geometry, shares, text, dtype)], requested.config) for shares in these]
            for these in (least.profiles, [ones])
        )
        yield min(own), base[0]


def _sample(geometry: Geometry, shares: Shares, text: int, dtype: str) -> SampleCost:
    n = geometry.tokens_per_image or NOMINAL
    visual = tuple(int(share * n + Fraction(1, 2)) for share in shares)
    flops = decoder_flops(geometry, visual, text) + (tower_flops(geometry, 1) if geometry.tokens_per_image else 0)
    return SampleCost(n, visual, text, flops, cache_bytes(geometry, visual, text, BYTES[dtype]), 0)
