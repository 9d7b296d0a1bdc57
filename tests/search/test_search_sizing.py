"""`holdout: auto`: how many records certify follows from the bound and from the discordance seen in the search."""

from __future__ import annotations

import pytest
from search_support import constraint

from autoprune.ports import Measurement
from autoprune.search.sizing import images_for, observed_need, required_images


def measured(values: list[float], per_image: int) -> Measurement:
    images = tuple(i // per_image for i in range(len(values)))
    return Measurement({"acc": sum(values) / len(values)}, {"acc": tuple(values)}, images)


BASE = [1.0] * 90 + [0.0] * 10
GOAL = constraint("acc", ">=", 0.97)


def test_the_largest_discordance_counts() -> None:
    near = [0.0] * 2 + [1.0] * 88 + [0.0] * 10
    far = [0.0] * 6 + [1.0] * 84 + [0.0] * 10
    need = observed_need([GOAL], [measured(near, 1), measured(far, 1)], measured(BASE, 1), 0.95)
    assert need == (required_images(0.97, 0.06, 0.95, accuracy=0.9), 0.06)


def test_records_are_images_times_records_per_image() -> None:
    one = observed_need([GOAL], [measured(BASE, 1)], measured(BASE, 1), 0.95)
    two = observed_need([GOAL], [measured(BASE, 2)], measured(BASE, 2), 0.95)
    assert one is not None
    assert two is not None
    assert two[0] == 2 * one[0]


def test_points_are_a_factor_of_the_accuracy() -> None:
    points = images_for(constraint("acc", ">=", 1.0, -0.03), 0.6, 0.05, 0.95)
    factor = images_for(constraint("acc", ">=", 0.95), 0.6, 0.05, 0.95)
    assert points is not None
    assert factor is not None
    assert points == pytest.approx(factor, rel=0.01)


def test_no_formula_where_none_applies() -> None:
    assert observed_need([constraint("acc", ">=", 0.0, 0.5)], [measured(BASE, 1)], measured(BASE, 1), 0.95) is None
    smooth = [v * 0.7 for v in BASE]
    assert observed_need([GOAL], [measured(smooth, 1)], measured(smooth, 1), 0.95) is None
