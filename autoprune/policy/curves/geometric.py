"""geometric: every so many layers the rest is multiplied by the ratio, f(l) = first · ratio^floor((l - l1)/every).

PyramidDrop (Xing et al., 2024) is `{ratio: 1/2, every: 8}` along [8, 24] of 32 layers: 1/2, 1/4, 1/8. Where `first` is
not given it is the ratio.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import ClassVar, Self

from pydantic import field_validator

from autoprune.errors import Mistake
from autoprune.policy.curves.base import Curve, Part, Place, Span
from autoprune.policy.sites import Layer


class Geometric(Curve):
    """Keep is `first` (default: the ratio), then times `ratio` every `every` layers (an integer, or a fraction of the
    depth)."""

    name: ClassVar[str] = "geometric"
    solvable: ClassVar[Mapping[str, tuple[Fraction, Fraction]]] = {
        "ratio": (Fraction(0), Fraction(1)),
        "first": (Fraction(0), Fraction(1)),
    }
    ratio: Part
    every: Place
    first: Part | None = None

    @field_validator("every")
    @classmethod
    def _positive(cls, every: Layer) -> Layer:
        if every == 0:
            raise Mistake("out-of-range", "`every` is at least 1 layer")
        return every

    def keep(self, layer: int, span: Span) -> Fraction:
        first = self.ratio if self.first is None else self.first
        return first * self.ratio ** ((layer - span.first) // span.layers(self.every))

    def scaled(self, factor: Fraction) -> Self:
        first = self.ratio if self.first is None else self.first
        return type(self)(ratio=self.ratio, every=self.every, first=min(Fraction(1), first * factor))
