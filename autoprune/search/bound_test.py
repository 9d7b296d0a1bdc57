"""One constraint on one policy as a test over images: one-sided, studentised, paired by record.

For `M >= c * baseline + s` the numbers are the per-image sums of M - c * baseline - s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoprune.search.statistics import Clusters, is_binary, lower_bound, upper_bound

if TYPE_CHECKING:
    from autoprune.ports import Measurement
    from autoprune.spec.goals import Constraint


@dataclass(frozen=True)
class BoundTest:
    """The paired per-image sums of one constraint, ready for any scale and shift. Bounds are one-sided."""

    constraint: Constraint
    own: Clusters
    base: Clusters
    binary: bool
    confidence: float

    @classmethod
    def of(
        cls, constraint: Constraint, policy: Measurement, baseline: Measurement, confidence: float
    ) -> BoundTest | None:
        own, base = policy.samples.get(constraint.label), baseline.samples.get(constraint.label)
        if own is None or base is None:
            return None
        binary = is_binary(own) and (is_binary(base) or not constraint.relative)
        grouped = [Clusters.of(samples, policy.images) for samples in (own, base)]
        return cls(constraint, grouped[0], grouped[1], binary, confidence)

    @property
    def images(self) -> int:
        return len(self.own)

    def at(self, confidence: float) -> BoundTest:
        """The same data at another confidence."""
        return replace(self, confidence=confidence)

    @property
    def sign(self) -> float:
        return 1.0 if self.constraint.op == ">=" else -1.0

    def _data(self, scale: float, shift: float) -> Clusters:
        sums = self.own.sums - scale * self.base.sums - shift * self.own.sizes
        return Clusters(self.sign * sums, self.own.sizes)

    def lower(self, scale: float, shift: float) -> float:
        """Lower bound of the mean margin. For 0/1 data the pseudo-image fails where the baseline succeeds."""
        return lower_bound(self._data(scale, shift), self.confidence, self._worst(scale, shift))

    def _worst(self, scale: float, shift: float) -> float | None:
        worst = -scale - shift if self.sign > 0 else shift - 1.0
        return worst if self.binary else None

    def margin(self) -> tuple[Clusters, float | None]:
        """How far each image is on the right side of the declared bound, and the worst there is for 0/1 data."""
        goal = self.constraint
        return self._data(goal.scale, goal.shift), self._worst(goal.scale, goal.shift)

    def upper(self, scale: float, shift: float) -> float:
        best = 1.0 - shift if self.sign > 0 else scale + shift
        return upper_bound(self._data(scale, shift), self.confidence, best if self.binary else None)

    def certifiable(self) -> float | None:
        """The tightest factor (or shift) that would be certified on these data, were it the only one asked about.

        A factor is a one-sided Fieller bound: as the baseline is surely above 0, looser factors would be certified too.
        """
        if not self.constraint.by_factor:
            return self.sign * self.lower(self.constraint.scale, 0.0)  # the bound moves one to one with the shift
        if self.base.mean <= 0 or (self.sign < 0 and lower_bound(self.base, self.confidence) <= 0):
            return None
        met, missed = self._bracket(self.own.mean / self.base.mean)
        if met is None:
            return None
        for _ in range(30):  # to the last digits that matter
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
