"""What a curve is: a pure formula for keep over layers, and a place where one of its numbers may be solved."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from autoprune.document.numbers import exact
from autoprune.document.problems import Path
from autoprune.policy.sites import Layer, absolute, layer_of

GRID = 10**6

Number = Annotated[Fraction, BeforeValidator(exact)]
Part = Annotated[Number, Field(ge=0, le=1)]
Place = Annotated[Layer, BeforeValidator(layer_of)]


@dataclass(frozen=True)
class Span:
    """Where a curve runs, in absolute decoder layers, both ends included."""

    first: int
    last: int
    depth: int

    def x(self, layer: int) -> Fraction:
        """0 at the first layer, 1 at the last."""
        return Fraction(layer - self.first, self.last - self.first) if self.last > self.first else Fraction(0)

    def layers(self, length: Layer) -> int:
        """A distance in layers; a fraction is one of the depth."""
        return max(1, absolute(length, self.depth))


class Curve(BaseModel):
    """Base of the curves. Its fields are what a document writes; `solvable` names the numbers that may follow
    from a budget, and between which values."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, arbitrary_types_allowed=True)
    name: ClassVar[str]
    solvable: ClassVar[Mapping[str, tuple[Fraction, Fraction]]] = {}

    @abstractmethod
    def keep(self, layer: int, span: Span) -> Fraction:
        """The fraction of N that enters `layer`. Never rises with the layer."""

    @abstractmethod
    def scaled(self, factor: Fraction) -> Self:
        """The same shape with keeps multiplied by `factor`, up to 1."""


@dataclass(frozen=True)
class Solve:
    """One number of a curve that is found from a budget: `path` inside the curve's parameters."""

    path: Path
    budget: Fraction


@dataclass(frozen=True)
class CurveSpec:
    """A curve as written. `params` are what stands under its name, without the solved number."""

    name: str
    params: Any = field(default_factory=dict)
    solve: Solve | None = None
    path: Path = field(default=(), compare=False, repr=False)


def snapped(value: float) -> Fraction:
    """A computed keep on a grid of 10^-6, so that the last bit of `exp` never changes a policy."""
    return Fraction(round(value * GRID), GRID)
