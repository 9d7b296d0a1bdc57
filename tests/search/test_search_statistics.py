"""One-sided bounds where losses are rare: held against the exact binomial test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from autoprune.search.statistics import Clusters, lower_bound


def most_losses(scale: float, images: int, confidence: float) -> int:
    """How many images may be lost of those an always right baseline is right on, so that `scale` is certified."""
    losses = -1
    while True:
        values = np.full(images, 1 - scale)
        values[: losses + 1] -= 1
        if lower_bound(Clusters.of(values, range(images)), confidence, -scale) < 0:
            return losses
        losses += 1


@pytest.mark.parametrize("risk", [0.05, 0.05 / 8, 0.05 / 40])
@pytest.mark.parametrize("images", [60, 250, 500, 2000])
def test_rare_losses_are_certified_like_an_exact_test_does(images: int, risk: float) -> None:
    for scale in (0.9, 0.95, 0.97, 0.98, 0.99):
        losses = most_losses(scale, images, 1 - risk)
        assert binom.cdf(losses, images, 1 - scale) <= risk, f"{scale}: {losses} losses are too many"
        assert binom.cdf(losses + 2, images, 1 - scale) > risk, f"{scale}: {losses} losses are needlessly few"


def test_skewness_never_helps() -> None:
    values = np.array([0.0] * 95 + [1.0] * 5)
    rare_wins, rare_losses = Clusters.of(values, range(100)), Clusters.of(-values, range(100))
    error, skewness = rare_wins.shape
    assert rare_losses.shape == pytest.approx((error, -skewness))
    assert skewness == pytest.approx((0.05 * 0.95 * 0.9) / (0.05 * 0.95) ** 1.5)
    assert lower_bound(rare_wins, 0.95) == pytest.approx(0.05 - 1.6603912 * error)
    assert lower_bound(rare_losses, 0.95) < -0.05 - 1.6603912 * error - 0.3 * error
