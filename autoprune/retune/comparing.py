"""How much worse: the difference of an accuracy between two evaluations, with one-sided bounds.

*Paired* where both have a number for the same records: per-image sums of new - old (`search.statistics`). *Unpaired*
where only an interval is left of the old one: new's two-sided limits against old's, each of which is missed on that
side with half the risk, so that their difference is missed with at most the whole one. *Same* where both are the same
policy on the same model: then there is no difference to estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from autoprune.search.certify import interval
from autoprune.search.statistics import Clusters, is_binary, lower_bound, upper_bound

if TYPE_CHECKING:
    from autoprune.policy.front import Estimate
    from autoprune.ports import Measurement
    from autoprune.spec.retuning import Margin

Basis = Literal["same", "paired", "unpaired", "unknown"]
State = Literal["non-inferior", "undecided", "inferior"]


@dataclass(frozen=True)
class Comparison:
    """new - old of the accuracy `label`: the estimate and its one-sided bounds at the spec's confidence, over `images`
    (0: none in common). `margin` is in the measure's unit; `unknown`: there is nothing to compare with."""

    label: str
    basis: Basis
    old: float
    new: float
    lower: float
    upper: float
    margin: float
    images: int = 0

    @property
    def state(self) -> State:
        if self.lower >= -self.margin:
            return "non-inferior"
        return "inferior" if self.upper < -self.margin else "undecided"

    @property
    def text(self) -> str:
        if self.basis == "unknown":
            return f"{self.label} {self.new:.3f}: nothing to compare with"
        if self.basis == "same":
            return f"{self.label} {self.new:.3f}: the same policy on the same model"
        points = 100 * (self.new - self.old)
        how = f"paired over {self.images} images" if self.basis == "paired" else "unpaired intervals"
        bound = "" if math.isinf(self.lower) else f", surely at least {100 * self.lower:+.1f}"
        return (
            f"{self.label} {self.old:.3f} -> {self.new:.3f} ({points:+.1f} points{bound}; {how}): {self.state} "
            f"at {100 * self.margin:.2g} points"
        )

    def to_json(self) -> dict[str, Any]:
        limits = {name: None if math.isinf(x) else x for name, x in (("lower", self.lower), ("upper", self.upper))}
        return {**asdict(self), **limits, "state": self.state}


@dataclass(frozen=True)
class Before:
    """What is left of an earlier evaluation: its numbers per record where a store has them, its intervals; `same`: it
    was this very policy on this very model."""

    measurement: Measurement | None
    estimates: Mapping[str, Estimate]
    same: bool = False


def compare(label: str, new: Measurement, old: Before, margin: Margin, confidence: float) -> Comparison:
    """The best comparison that can be had: same, paired, unpaired, or unknown."""
    value = new.values[label]
    if old.same:
        return Comparison(label, "same", value, value, 0.0, 0.0, margin.of(value), len(set(new.images)))
    if old.measurement is not None and (paired := _paired(label, new, old.measurement, margin, confidence)) is not None:
        return paired
    before = old.estimates.get(label)
    if before is None:
        return Comparison(label, "unknown", math.nan, value, -math.inf, math.inf, 0.0)
    shown = interval(new, label, confidence)
    known = None not in (before.low, before.high, shown.low, shown.high)
    lower = (shown.low or 0.0) - (before.high or 0.0) if known else -math.inf
    upper = (shown.high or 0.0) - (before.low or 0.0) if known else math.inf
    return Comparison(label, "unpaired", before.value, value, lower, upper, margin.of(before.value))


def _paired(label: str, new: Measurement, old: Measurement, margin: Margin, confidence: float) -> Comparison | None:
    """None where fewer than two images have numbers in both."""
    ours, theirs = new.samples.get(label), old.samples.get(label)
    if ours is None or theirs is None:
        return None
    known = dict(zip(old.records, theirs, strict=False))
    both = [(i, known[record]) for i, record in enumerate(new.records) if record in known]
    images = [new.images[i] for i, _ in both]
    if len(set(images)) < 2:
        return None
    mine, before = [ours[i] for i, _ in both], [value for _, value in both]
    data = Clusters.of([a - b for a, b in zip(mine, before, strict=True)], images)
    binary = is_binary(mine) and is_binary(before)
    was = sum(before) / len(before)
    return Comparison(
        label,
        "paired",
        was,
        sum(mine) / len(mine),
        lower_bound(data, confidence, -1.0 if binary else None),
        upper_bound(data, confidence, 1.0 if binary else None),
        margin.of(was),
        len(data),
    )
