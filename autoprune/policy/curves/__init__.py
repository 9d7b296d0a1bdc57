"""Curves: low-dimensional formulas for keep over layers. One small file per formula."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from autoprune.document.numbers import exact, text
from autoprune.document.problems import Path
from autoprune.policy.curves.base import GRID, Curve, CurveSpec, Solve, Span
from autoprune.policy.curves.geometric import Geometric
from autoprune.policy.curves.linear import Linear
from autoprune.policy.curves.logistic import Logistic
from autoprune.policy.curves.p_sigmoid import PSigmoid
from autoprune.policy.curves.steps import Steps

CURVES: Mapping[str, type[Curve]] = {c.name: c for c in (Geometric, Linear, Logistic, PSigmoid, Steps)}

__all__ = ["CURVES", "GRID", "Curve", "CurveSpec", "Solve", "Span", "build", "params_of", "replaced", "solve_range"]


def replaced(params: Any, path: Path, value: Any) -> Any:
    """`params` with `value` at `path`."""
    if not path:
        return value
    copy: Any = dict(params) if isinstance(params, Mapping) else list(params)
    copy[path[0]] = replaced(copy[path[0]], path[1:], value)
    return copy


def build(spec: CurveSpec, solved: Fraction | None = None) -> Curve:
    """The formula, with the solved number filled in. Raises pydantic.ValidationError."""
    params = spec.params if spec.solve is None or solved is None else replaced(spec.params, spec.solve.path, solved)
    return CURVES[spec.name].model_validate({"steps": params} if spec.name == "steps" else params)


def params_of(curve: Curve) -> Any:
    """What a document writes under the curve's name."""
    if isinstance(curve, Steps):
        return [[_plain(place), _plain(keep)] for place, keep in curve.steps]
    return {key: _plain(value) for key, value in curve.model_dump(by_alias=True).items() if value is not None}


def _plain(value: Any) -> Any:
    return text(value) if isinstance(value, Fraction) else value


def solve_range(spec: CurveSpec) -> tuple[Fraction, Fraction]:
    """Between which values the solved number is searched: its own range, and those that keep the curve falling."""
    if spec.solve is None:
        raise ValueError(f"curve {spec.name!r} has nothing to solve")
    if spec.name == "steps":
        row = int(spec.solve.path[0])
        below = exact(spec.params[row + 1][1]) if row + 1 < len(spec.params) else Fraction(0)
        above = exact(spec.params[row - 1][1]) if row > 0 else Fraction(1)
        return below, above
    field = str(spec.solve.path[0])
    low, high = CURVES[spec.name].solvable[field]
    if field in ("low", "to"):
        high = min(high, exact(spec.params["high" if field == "low" else "from"]))
    if field in ("high", "from"):
        low = max(low, exact(spec.params["low" if field == "high" else "to"]))
    return low, high
