"""Rates with exact bounds, paired comparisons, and many of them at one level. For 0/1 outcomes, one per image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.search.statistics import Clusters, student

Array = NDArray[np.float64]


def clopper_pearson(hits: int, of: int, confidence: float) -> tuple[float, float]:
    """Exact one-sided bounds of a rate, lower and upper, each at this confidence (Clopper & Pearson 1934)."""
    from scipy.special import betaincinv

    if not 0 <= hits <= of or of < 1:
        raise ValueError(f"{hits} of {of} is no rate")
    low = 0.0 if hits == 0 else float(betaincinv(hits, of - hits + 1, 1 - confidence))
    high = 1.0 if hits == of else float(betaincinv(hits + 1, of - hits, confidence))
    return low, high


@dataclass(frozen=True)
class Paired:
    """Two policies on the same N images. `mean` is the first minus the second, `error` its standard error; `p` is the
    exact two-sided sign test on the images where they differ (McNemar 1947): nothing is assumed where few do."""

    images: int
    wins: int
    losses: int
    mean: float
    error: float
    p: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """Two-sided, of the difference."""
        half = student((1 + confidence) / 2, self.images) * self.error if self.error > 0 else 0.0
        return self.mean - half, self.mean + half

    def detectable(self, level: float, power: float = 0.8) -> float:
        """The smallest true difference that a two-sided test at `level` finds with this power, at the discordance seen
        here (at least one image)."""
        error = max(self.error, 1 / self.images)
        return (student(1 - level / 2, self.images) + student(power, self.images)) * error


def paired(first: Array, second: Array) -> Paired:
    """Compare 0/1 outcomes [N] of two policies, image by image. Raises ValueError for other data."""
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError("a paired comparison needs outcomes of the same images, at least two")
    if not np.isin(first, (0.0, 1.0)).all() or not np.isin(second, (0.0, 1.0)).all():
        raise ValueError("a sign test is for outcomes that are 0 or 1")
    gap = first - second
    wins, losses = int((gap > 0).sum()), int((gap < 0).sum())
    found = Clusters.of(gap, range(len(gap)))
    return Paired(len(gap), wins, losses, found.mean, found.error, sign_test(wins, losses))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p of so many wins and losses if either were equally likely."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5))) if wins + losses else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p in the order given: below a level, significant at that level for the whole family (Holm 1979)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, worst = [math.nan] * len(p), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = worst
    return adjusted
