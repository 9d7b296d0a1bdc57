"""What the holdout proves about a policy: one-sided tests over images, in a fixed sequence.

For `M >= c * baseline + s` the test is one-sided on the per-image sums of M - c * baseline - s, paired by record:
*certified* when its lower bound is not below 0, *violated* when its upper bound is below 0, else *undecided*. Policies
are tested in an order fixed before the holdout is looked at, dearest predicted cost first, each at the full confidence;
after the first one that is not certified no later one can be (fixed-sequence testing keeps the family-wise error at
1 - confidence without a penalty for their number: Maurer, Hothorn & Lehmacher 1995).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from autoprune.search.settle import Unusable
from autoprune.search.statistics import Clusters, is_binary, lower_bound, student, upper_bound

if TYPE_CHECKING:
    from autoprune.ports import Measurement, TrialRecord
    from autoprune.spec.goals import Constraint

State = Literal["certified", "undecided", "violated"]
SEQUENCE_BROKEN = "a dearer policy before it in the fixed sequence was not certified"


@dataclass(frozen=True)
class Interval:
    """A mean with a two-sided confidence interval; unknown limits (fewer than two images) are None."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Verdict:
    """One constraint on one policy. `bound` and `lower`, `upper` are one-sided, of sign * (M - bound), in the measure's
    unit. `certifiable` is the tightest number that could stand in the constraint and be certified: the factor of the
    baseline, or the shift where the bound has one (None = no number could)."""

    text: str
    state: State
    lower: float
    upper: float
    certifiable: float | None
    reason: str = ""


def interval(measurement: Measurement, label: str, confidence: float) -> Interval:
    """The measure's mean and its two-sided interval over images; exact values have no width."""
    value, samples = measurement.values[label], measurement.samples.get(label)
    if samples is None:
        return Interval(value, value, value)
    data = Clusters.of(samples, measurement.images)
    if len(data) < 2:
        return Interval(value, None, None)
    one_sided = (1 + confidence) / 2
    if is_binary(samples):
        low, high = lower_bound(data, one_sided, 0.0), upper_bound(data, one_sided, 1.0)
        return Interval(value, max(0.0, low), min(1.0, high))
    half = student(one_sided, len(data)) * data.error if data.error > 0 else 0.0
    return Interval(value, value - half, value + half)


def judge(constraint: Constraint, policy: Measurement, baseline: Measurement, confidence: float) -> Verdict:
    """The verdict on one constraint, as if it were the only policy tested."""
    test = _Test.of(constraint, policy, baseline, confidence)
    if test is None:
        gap = -constraint.slack(policy.values[constraint.label], baseline.values[constraint.label])
        state: State = "certified" if gap >= 0 else "violated"
        return Verdict(constraint.text, state, gap, gap, _exact_number(constraint, policy, baseline))
    if test.images < 2:
        few = f"the holdout has {test.images} image: an interval needs at least 2"
        return Verdict(constraint.text, "undecided", -math.inf, math.inf, None, few)
    lower, upper = test.lower(constraint.scale, constraint.shift), test.upper(constraint.scale, constraint.shift)
    state = "certified" if lower >= 0 else "violated" if upper < 0 else "undecided"
    return Verdict(constraint.text, state, lower, upper, test.certifiable())


def _exact_number(constraint: Constraint, policy: Measurement, baseline: Measurement) -> float | None:
    value, base = policy.values[constraint.label], baseline.values[constraint.label]
    if constraint.relative and constraint.shift == 0.0:
        return value / base if base > 0 else None
    return value - constraint.scale * base


@dataclass(frozen=True)
class _Test:
    """The paired per-image sums of one constraint, ready for any scale and shift."""

    constraint: Constraint
    own: Clusters
    base: Clusters
    binary: bool
    confidence: float

    @classmethod
    def of(cls, constraint: Constraint, policy: Measurement, baseline: Measurement, confidence: float) -> _Test | None:
        own, base = policy.samples.get(constraint.label), baseline.samples.get(constraint.label)
        if own is None or base is None:
            return None
        binary = is_binary(own) and (is_binary(base) or not constraint.relative)
        grouped = [Clusters.of(samples, policy.images) for samples in (own, base)]
        return cls(constraint, grouped[0], grouped[1], binary, confidence)

    @property
    def images(self) -> int:
        return len(self.own)

    @property
    def sign(self) -> float:
        return 1.0 if self.constraint.op == ">=" else -1.0

    def _data(self, scale: float, shift: float) -> Clusters:
        sums = self.own.sums - scale * self.base.sums - shift * self.own.sizes
        return Clusters(self.sign * sums, self.own.sizes)

    def lower(self, scale: float, shift: float) -> float:
        """Lower bound of the mean margin. For 0/1 data the pseudo-image fails where the baseline succeeds."""
        worst = -scale - shift if self.sign > 0 else shift - 1.0
        return lower_bound(self._data(scale, shift), self.confidence, worst if self.binary else None)

    def upper(self, scale: float, shift: float) -> float:
        best = 1.0 - shift if self.sign > 0 else scale + shift
        return upper_bound(self._data(scale, shift), self.confidence, best if self.binary else None)

    def certifiable(self) -> float | None:
        """The tightest factor (or shift) that would be certified on these data."""
        scale, shift = self.constraint.scale, self.constraint.shift
        if not self.constraint.relative or shift != 0.0:
            return self.sign * self.lower(scale, 0.0)  # the bound moves one to one with the shift
        if self.base.mean <= 0:
            return None
        met, missed = self._bracket(self.own.mean / self.base.mean)
        if met is None:
            return None
        for _ in range(40):  # to the last digits that matter
            middle = (met + missed) / 2
            if self.lower(middle, 0.0) >= 0:
                met = middle
            else:
                missed = middle
        return met

    def _bracket(self, ratio: float) -> tuple[float | None, float]:
        """A factor that would be certified (None = none) and the observed ratio, which at best just is."""
        if self.lower(ratio, 0.0) >= 0:
            return ratio, ratio
        met = 0.0 if self.sign > 0 else max(ratio, 1e-9)
        for _ in range(60):
            if self.lower(met, 0.0) >= 0:
                return met, ratio
            if self.sign > 0:
                return None, ratio
            met *= 2
        return None, ratio


def sequence(records: Sequence[TrialRecord], costs: Sequence[str]) -> list[TrialRecord]:
    """The order of testing: dearest first by the first cost known from the search, ties by the next, then by digest.

    Uses search-split values only, so it is fixed before the holdout is looked at.
    """
    return sorted(records, key=lambda r: (*(-r.values[c] for c in costs), r.digest))


def certify(
    constraints: Sequence[Constraint],
    ordered: Sequence[Measurement | Unusable],
    baseline: Measurement,
    confidence: float,
) -> list[dict[str, Verdict]]:
    """Verdicts by constraint text for policies in the order of testing. One that could not be measured gets none, and
    breaks the sequence like one that was not certified."""
    intact = True
    results: list[dict[str, Verdict]] = []
    for measurement in ordered:
        if isinstance(measurement, Unusable):
            results.append({})
            intact = False
            continue
        verdicts = {c.text: judge(c, measurement, baseline, confidence) for c in constraints}
        if not intact:
            verdicts = {text: _downgraded(v) for text, v in verdicts.items()}
        intact = intact and all(v.state == "certified" for v in verdicts.values())
        results.append(verdicts)
    return results


def _downgraded(verdict: Verdict) -> Verdict:
    if verdict.state != "certified":
        return verdict
    return replace(verdict, state="undecided", reason=SEQUENCE_BROKEN)


def standing(verdicts: Mapping[str, Verdict]) -> State:
    """A policy's overall state: certified only if every constraint is (also when there is none)."""
    states = {v.state for v in verdicts.values()}
    if "violated" in states:
        return "violated"
    return "undecided" if "undecided" in states else "certified"


@dataclass(frozen=True)
class Finalist:
    """A point of the search front with what the holdout says about it."""

    record: TrialRecord
    holdout: Measurement
    verdicts: Mapping[str, Verdict]

    @property
    def rank(self) -> int:
        """0 certified, 1 undecided, 2 violated."""
        return ("certified", "undecided", "violated").index(standing(self.verdicts))
