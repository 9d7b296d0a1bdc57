"""Means over clustered records, and one-sided bounds on them. The resampling unit is the image.

Records that share an image are not independent, so every error here is computed from per-image sums: the mean is a
ratio of sums, its variance the usual linearised (cluster-robust) one with C/(C - 1), and quantiles are Student's t
with C - 1 degrees of freedom for C images (Cochran, Sampling Techniques, ch. 6 and 9A).

For 0/1 measures that variance says nothing when no record disagrees: forty right answers out of forty do not prove
0.95. There a bound is taken with one more pseudo-image of the least favourable outcome, which reproduces the 'rule of
three' when nothing disagrees and fades as 1/C otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Clusters:
    """Per-image sums [C] of a number per record, and the records of each image [C]."""

    sums: Array
    sizes: Array

    @classmethod
    def of(cls, values: Sequence[float] | Array, images: Sequence[int]) -> Clusters:
        """Group one number per record by its image."""
        _, index = np.unique(np.asarray(images), return_inverse=True)
        sums = np.bincount(index, weights=np.asarray(values, dtype=np.float64))
        return cls(np.asarray(sums, dtype=np.float64), np.asarray(np.bincount(index), dtype=np.float64))

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def mean(self) -> float:
        """The mean over records."""
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def error(self) -> float:
        """Standard error of the mean; needs two images (infinite below that)."""
        count = len(self)
        if count < 2:
            return math.inf
        residuals = self.sums - self.sizes * self.mean
        scale = count / (count - 1)
        # Residuals of identical records are rounding noise, not variance.
        if float(np.abs(residuals).max()) <= 1e-12 * max(1.0, float(np.abs(self.sums).max())):
            return 0.0
        return float(math.sqrt(scale * float(residuals @ residuals)) / self.sizes.sum())

    def with_pseudo_image(self, outcome: float) -> Clusters:
        """One more image of average size on which every record has this outcome."""
        size = float(self.sizes.mean())
        return Clusters(np.append(self.sums, outcome * size), np.append(self.sizes, size))


def student(confidence: float, images: int) -> float:
    """The one-sided Student quantile for a mean over that many images (>= 2)."""
    from scipy.special import stdtrit

    return float(stdtrit(images - 1, confidence))


def lower_bound(data: Clusters, confidence: float, pessimum: float | None = None) -> float:
    """One-sided lower confidence bound of the mean. `pessimum` = the lowest outcome, where data are 0/1."""
    if len(data) < 2:
        return -math.inf
    shifted = data if pessimum is None else data.with_pseudo_image(pessimum)
    error = shifted.error
    return shifted.mean if error == 0.0 else shifted.mean - student(confidence, len(shifted)) * error


def upper_bound(data: Clusters, confidence: float, optimum: float | None = None) -> float:
    """One-sided upper confidence bound of the mean (see `lower_bound`)."""
    negated = Clusters(-data.sums, data.sizes)
    return -lower_bound(negated, confidence, None if optimum is None else -optimum)


def is_binary(values: Sequence[float]) -> bool:
    """Whether every number is 0 or 1."""
    return set(values) <= {0.0, 1.0}
