"""steps: keep by hand, [[layer, keep], …]; f(l) is that of the last step at or before l, 1 before the first."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import ClassVar, Self

from pydantic import model_validator

from autoprune.errors import Mistake
from autoprune.policy.curves.base import Curve, Part, Place, Span
from autoprune.policy.sites import absolute


class Steps(Curve):
    """A list of layers (integers, or fractions of the depth) with the keep from there on."""

    name: ClassVar[str] = "steps"
    solvable: ClassVar[Mapping[str, tuple[Fraction, Fraction]]] = {"*": (Fraction(0), Fraction(1))}
    steps: tuple[tuple[Place, Part], ...]

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if not self.steps:
            raise Mistake("empty-value", "steps need at least one [layer, keep]")
        for (layer, keep), (later, lower) in zip(self.steps, self.steps[1:], strict=False):
            if type(layer) is type(later) and later <= layer:
                raise Mistake("wrong-order", f"steps go from shallow to deep: {later} stands after {layer}")
            if lower > keep:
                raise Mistake("keep-rises", f"keep rises with depth: {lower} at {later} is above {keep} at {layer}")
        return self

    def keep(self, layer: int, span: Span) -> Fraction:
        reached = [keep for place, keep in self.steps if absolute(place, span.depth) <= layer]
        return min(reached, default=Fraction(1))

    def scaled(self, factor: Fraction) -> Self:
        return type(self)(steps=tuple((place, min(Fraction(1), keep * factor)) for place, keep in self.steps))
