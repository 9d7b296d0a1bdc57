"""logistic: a falling logistic curve stretched to its budget, f(l) = min(most, scale/(1 + exp(slope·(x - mid)))).

x = (l - first)/(last - first). After the retention curve of "AutoPrune: Each Complexity Deserves a Pruning Policy"
(NeurIPS 2025): slope and midpoint are the shape, and one factor, found from the budget, lifts or lowers all of it. In
`p_sigmoid` the budget moves the curve along the depth instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, ClassVar, Self

from pydantic import Field

from autoprune.policy.curves.base import Curve, Number, Part, Span, snapped

STEEPEST = 30
HIGHEST = Fraction(10**14)  # above exp(STEEPEST): a factor that keeps everything in every layer, whatever the shape


class Logistic(Curve):
    """Keep falls from about `scale` to 0, half of it at `mid`, the faster the larger `slope`; never above `most`."""

    name: ClassVar[str] = "logistic"
    solvable: ClassVar[Mapping[str, tuple[Fraction, Fraction]]] = {"scale": (Fraction(0), HIGHEST)}
    scale: Annotated[Number, Field(ge=0, le=HIGHEST)]
    mid: Annotated[Number, Field(ge=0, le=1)]
    slope: Annotated[Number, Field(ge=0, le=STEEPEST)]
    most: Part = Fraction(1)

    def keep(self, layer: int, span: Span) -> Fraction:
        steepness = float(self.slope * (span.x(layer) - self.mid))
        return min(self.most, snapped(float(self.scale) / (1 + math.exp(steepness))))

    def scaled(self, factor: Fraction) -> Self:
        scale, most = min(HIGHEST, self.scale * factor), min(Fraction(1), self.most * factor)
        return type(self)(scale=scale, mid=self.mid, slope=self.slope, most=most)
