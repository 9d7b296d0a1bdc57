"""p_sigmoid: keep falls along a sigmoid, f(l) = low + (high - low)/(1 + exp(slope·(x - mid))).

x = (l - first)/(last - first). After P-Sigmoid (G-Search: counts that need not rise with depth, a sigmoid in shape).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from autoprune.errors import Mistake
from autoprune.policy.curves.base import Curve, Number, Part, Span, snapped


class PSigmoid(Curve):
    """Keep falls from about `high` to about `low`, half of the way at `mid`, the faster the larger `slope`."""

    name: ClassVar[str] = "p_sigmoid"
    solvable: ClassVar[Mapping[str, tuple[Fraction, Fraction]]] = {
        "low": (Fraction(0), Fraction(1)),
        "high": (Fraction(0), Fraction(1)),
        "mid": (Fraction(-1), Fraction(2)),
    }
    low: Part
    high: Part
    mid: Annotated[Number, Field(ge=-1, le=2)]
    slope: Annotated[Number, Field(ge=0, le=200)]

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.low > self.high:
            raise Mistake("keep-rises", f"keep rises with depth: `low` ({self.low}) is above `high` ({self.high})")
        return self

    def keep(self, layer: int, span: Span) -> Fraction:
        steepness = float(self.slope * (span.x(layer) - self.mid))
        return snapped(float(self.low) + float(self.high - self.low) / (1 + math.exp(steepness)))

    def scaled(self, factor: Fraction) -> Self:
        low, high = min(Fraction(1), self.low * factor), min(Fraction(1), self.high * factor)
        return type(self)(low=low, high=high, mid=self.mid, slope=self.slope)
