"""linear: keep falls on a straight line, f(l) = from + (to - from)·x, x = (l - first)/(last - first)."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import ClassVar, Self

from pydantic import Field, model_validator

from autoprune.errors import Mistake
from autoprune.policy.curves.base import Curve, Part, Span


class Linear(Curve):
    """Keep falls from `from` to `to` in equal steps."""

    name: ClassVar[str] = "linear"
    solvable: ClassVar[Mapping[str, tuple[Fraction, Fraction]]] = {
        "from": (Fraction(0), Fraction(1)),
        "to": (Fraction(0), Fraction(1)),
    }
    start: Part = Field(alias="from")
    to: Part

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.to > self.start:
            raise Mistake("keep-rises", f"keep rises with depth: `to` ({self.to}) is above `from` ({self.start})")
        return self

    def keep(self, layer: int, span: Span) -> Fraction:
        return self.start + (self.to - self.start) * span.x(layer)

    def scaled(self, factor: Fraction) -> Self:
        return type(self)(start=min(Fraction(1), self.start * factor), to=min(Fraction(1), self.to * factor))
