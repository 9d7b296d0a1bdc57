"""What a search space leaves open: definitions as written, and what a sampler is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from autoprune.document.numbers import exact
from autoprune.document.problems import Path, Problems, shown
from autoprune.errors import Mistake
from autoprune.policy.holes import HOLE_KINDS, HoleKind, inline_kind
from autoprune.policy.sites import Layer, layer_of

SNAP = 1000


@dataclass(frozen=True)
class Parameter:
    """One number or choice that a sampler is asked for. `low` and `high` are inclusive.

    `edges`: both ends as a person reads them, None where the range cannot be widened (a keep of 1, the last layer);
    `near`: which share of the range next to an end counts as being there.
    """

    name: str
    kind: Literal["float", "int", "choice"]
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    edges: tuple[str | None, str | None] = field(default=(None, None), compare=False)
    near: float = field(default=0.01, compare=False)

    def place(self, value: float) -> float:
        """Where a number lies in the range, from 0 to 1; on a log scale where it has one. Raises ValueError for a
        choice."""
        if self.low is None or self.high is None:
            raise ValueError(f"{self.name} is no number")
        low, high = float(self.low), float(self.high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low) if high > low else 0.0

    def at(self, place: float) -> float | int:
        """The number at a place from 0 to 1 of the range; whole numbers share it equally. Raises ValueError for a
        choice."""
        if self.low is None or self.high is None:
            raise ValueError(f"{self.name} is no number")
        low, high = float(self.low), float(self.high)
        if self.kind == "int":
            return min(int(high), int(low + place * (high - low + 1)))
        return low * (high / low) ** place if self.log else low + place * (high - low)

    @property
    def middle(self) -> float | int:
        """A number in the middle of the range, a whole one where only those are allowed. Raises ValueError for a
        choice."""
        if self.low is None or self.high is None:
            raise ValueError(f"{self.name} is no number")
        low, high = float(self.low), float(self.high)
        middle = math.sqrt(low * high) if self.log else (low + high) / 2
        return round(middle) if self.kind == "int" else middle


@dataclass(frozen=True)
class Param:
    """A definition: `low` and `high` of float, int or layer; `options` of choice; `names` of weights."""

    name: str
    kind: HoleKind
    path: Path = field(compare=False)
    low: Layer = 0
    high: Layer = 0
    log: bool = False
    options: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[Any, ...]:
        """One scalar for each option: the option itself, a part's name where it is unique, else its JSON text."""
        heads = [next(iter(o)) if isinstance(o, Mapping) and len(o) == 1 else None for o in self.options]
        plain = [o for o in self.options if not isinstance(o, Mapping | list)]
        return tuple(
            option
            if not isinstance(option, Mapping | list)
            else head
            if head is not None and heads.count(head) == 1 and head not in plain
            else json.dumps(option, sort_keys=True)
            for option, head in zip(self.options, heads, strict=True)
        )


def read_param(name: str, value: Any, path: Path, found: Problems) -> Param | None:
    """A definition such as `{float: [0.2, 1]}`, or None with the mistake added to `found`."""
    kind = inline_kind(value)
    if kind is None:
        forms = ", ".join(f"{{{k}: […]}}" for k in HOLE_KINDS)
        found.add(path, "not-a-parameter", f"a parameter is one of {forms}, not {shown(value)}")
        return None
    listed, inside = value[kind], (*path, kind)
    log = value.get("log", False)
    if "log" in value and (kind not in ("float", "int") or not isinstance(log, bool)):
        found.add((*path, "log"), "conflict", "`log` is true or false, for float and int only", key=True)
        return None
    if kind == "choice":
        return _choice(name, listed, path, found)
    if kind == "weights":
        if len(listed) < 2 or len(set(map(str, listed))) < len(listed) or not all(isinstance(n, str) for n in listed):
            found.add(inside, "not-a-parameter", f"weights are for two or more different criteria, not {shown(listed)}")
            return None
        return Param(name, kind, path, names=tuple(listed))
    return _range(name, kind, listed, log, path, found)


def _choice(name: str, options: list[Any], path: Path, found: Problems) -> Param | None:
    if not options:
        found.add((*path, "choice"), "empty-value", "a choice needs at least one option")
        return None
    param = Param(name, "choice", path, options=tuple(options))
    if len(set(map(repr, param.labels))) < len(options):
        found.add((*path, "choice"), "repeated", f"an option stands here twice: {shown(options)}")
        return None
    return param


def _range(name: str, kind: HoleKind, ends: list[Any], log: bool, path: Path, found: Problems) -> Param | None:
    inside = (*path, kind)
    if len(ends) != 2:
        found.add(inside, "not-a-range", f"{kind} has two ends, [lowest, highest], not {shown(ends)}")
        return None
    read: list[Layer] = []
    for i, end in enumerate(ends):
        try:
            read.append(_end(kind, end))
        except Mistake as error:
            found.add((*inside, i), error.code, str(error))
    if len(read) < 2:
        return None
    low, high = read
    comparable = kind != "layer" or type(low) is type(high)
    if comparable and (low > high or (kind == "float" and low == high)):
        what = "an empty placement range" if kind == "layer" else "an empty range"
        found.add(inside, "empty-range", f"{what}: {shown(ends)}")
    elif log and low <= 0:
        found.add((*inside, 0), "out-of-range", f"with `log` the lowest value is above 0, not {shown(ends[0])}")
    else:
        return Param(name, kind, path, low, high, log)
    return None


def _end(kind: HoleKind, value: Any) -> Layer:
    if kind == "layer":
        return layer_of(value)
    if kind == "float":
        return exact(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Mistake("not-a-number", f"must be an integer, not {shown(value)}")
    return value


def snap(value: float, low: Layer, high: Layer, log: bool) -> Fraction:
    """A sampled float on the grid of 1/1000 (three significant digits on a log scale), inside its range."""
    near = Fraction(f"{value:.2e}") if log else Fraction(round(Fraction(value) * SNAP), SNAP)
    return min(max(near, Fraction(low)), Fraction(high))


def to_simplex(sticks: Sequence[float]) -> tuple[Fraction, ...]:
    """k - 1 numbers in [0, 1], uniform, to k weights of sum 1 on the grid of 1/1000, uniform on the simplex.

    Stick-breaking: the i-th weight takes 1 - (1 - u)^(1/(k - i)) of what is left.
    """
    rest, weights = 1.0, []
    for i, u in enumerate(sticks):
        part = rest * (1 - (1 - u) ** (1 / (len(sticks) - i)))
        weights.append(part)
        rest -= part
    snapped = [Fraction(round(w * SNAP), SNAP) for w in weights]
    while sum(snapped) > 1:  # rounding may have added a little more than there is
        largest = snapped.index(max(snapped))
        snapped[largest] -= Fraction(1, SNAP)
    return (*snapped, 1 - sum(snapped, Fraction(0)))


def from_simplex(weights: Sequence[Fraction]) -> tuple[float, ...]:
    """The numbers in [0, 1] that `to_simplex` maps to these weights (of sum 1)."""
    rest, sticks = 1.0, []
    count = len(weights) - 1
    for i, weight in enumerate(weights[:-1]):
        share = min(1.0, float(weight) / rest) if rest > 1e-9 else 0.0
        sticks.append(1 - (1 - share) ** (count - i))
        rest -= float(weight)
    return tuple(sticks)
