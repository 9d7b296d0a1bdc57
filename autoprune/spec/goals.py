"""Objectives and constraints as typed values. Every bound is linear in the baseline: `scale * baseline + shift`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autoprune.ports import MeasureRequest

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Objective:
    """One measure with a direction."""

    measure: MeasureRequest
    direction: Direction

    @property
    def label(self) -> str:
        return self.measure.label

    @property
    def text(self) -> str:
        return f"{self.direction} {self.label}"


@dataclass(frozen=True)
class Constraint:
    """`measure (<=|>=) scale * baseline + shift`; `text` is what the user wrote and its name everywhere."""

    text: str
    measure: MeasureRequest
    op: Literal["<=", ">="]
    scale: float
    shift: float

    @property
    def label(self) -> str:
        return self.measure.label

    @property
    def relative(self) -> bool:
        """Whether the unpruned baseline is needed to know the bound."""
        return self.scale != 0.0

    @property
    def by_factor(self) -> bool:
        """Whether the bound's one number is the baseline's factor (else it is the shift)."""
        return self.relative and self.shift == 0.0

    @property
    def number(self) -> float:
        """That number."""
        return self.scale if self.by_factor else self.shift

    def bound(self, baseline: float | None) -> float:
        """The bound in the measure's unit."""
        return self.shift if baseline is None else self.scale * baseline + self.shift

    def slack(self, value: float, baseline: float | None) -> float:
        """How far the value is on the wrong side, in the measure's unit: <= 0 is met."""
        gap = self.bound(baseline) - value
        return gap if self.op == ">=" else -gap
