"""Means over clustered records, and one-sided bounds on them. The resampling unit is the image.

Records that share an image are not independent, so every error here is computed from per-image sums: the mean is a
ratio of sums, its variance the usual linearised (cluster-robust) one with C/(C - 1), and quantiles are Student's t
with C - 1 degrees of freedom for C images (Cochran, Sampling Techniques, ch. 6 and 9A).

Where losses are rare, a sample that has few of them has a high mean *and* a small error, so that the plain bound is too
high too often: quantiles grow by the skewness of the images (the Cornish-Fisher term of a studentised mean: Johnson
1978, Hall 1992), never the other way. For 0/1 measures that still says nothing when no record disagrees: forty right
answers out of forty do not prove 0.95. There a bound is taken with a part of one more image, of the least favourable
outcome: as much as makes n right answers out of n prove what they do, (1 - confidence)^(1/n). Where the unpruned model
is always right, both together certify at the counts of the exact binomial test or at one loss fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

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
        return self.shape[0]

    @property
    def shape(self) -> tuple[float, float]:
        """Standard error of the mean, and the skewness of the images (0 where they do not vary)."""
        count = len(self)
        if count < 2:
            return math.inf, 0.0
        residuals = self.sums - self.sizes * self.mean
        # Residuals of identical records are rounding noise, not variance.
        if float(np.abs(residuals).max()) <= 1e-12 * max(1.0, float(np.abs(self.sums).max())):
            return 0.0, 0.0
        squares = float(residuals @ residuals)
        skewness = math.sqrt(count) * float(residuals @ (residuals * residuals)) / squares**1.5
        return math.sqrt(count / (count - 1) * squares) / float(self.sizes.sum()), skewness

    def with_pseudo_image(self, outcome: float, weight: float) -> Clusters:
        """With that much of one more image of average size, on which every record has this outcome."""
        size = weight * float(self.sizes.mean())
        return Clusters(np.append(self.sums, outcome * size), np.append(self.sizes, size))


def student(confidence: float, images: int) -> float:
    """The one-sided Student quantile for a mean over that many images (>= 2)."""
    from scipy.special import stdtrit

    return float(stdtrit(images - 1, confidence))


def pseudo_weight(confidence: float) -> float:
    """w such that the bound of n images without a loss is 1 - ln(1 / (1 - confidence)) / n: one loss of weight w has a
    mean and an error of w / n, and a skewness of sqrt(n)."""
    z = NormalDist().inv_cdf(confidence)
    return -math.log(1 - confidence) / (1 + z + (2 * z**2 + 1) / 6)


def padded(data: Clusters, confidence: float, pessimum: float | None) -> Clusters:
    """The images a lower bound is taken from. `pessimum` = the lowest outcome, where data are 0/1."""
    return data if pessimum is None else data.with_pseudo_image(pessimum, pseudo_weight(confidence))


def with_skewness(quantile: float, skewness: float, images: float) -> float:
    """The quantile of a studentised mean of that many images."""
    return quantile - min(0.0, skewness) * (2 * quantile**2 + 1) / (6 * math.sqrt(images))


def lower_bound(data: Clusters, confidence: float, pessimum: float | None = None) -> float:
    """One-sided lower confidence bound of the mean. `pessimum` = the lowest outcome, where data are 0/1."""
    if len(data) < 2:
        return -math.inf
    shifted = padded(data, confidence, pessimum)
    error, skewness = shifted.shape
    if error == 0.0:
        return shifted.mean
    return shifted.mean - with_skewness(student(confidence, len(shifted)), skewness, len(shifted)) * error


def upper_bound(data: Clusters, confidence: float, optimum: float | None = None) -> float:
    """One-sided upper confidence bound of the mean (see `lower_bound`)."""
    negated = Clusters(-data.sums, data.sizes)
    return -lower_bound(negated, confidence, None if optimum is None else -optimum)


def is_binary(values: Sequence[float]) -> bool:
    """Whether every number is 0 or 1."""
    return set(values) <= {0.0, 1.0}
