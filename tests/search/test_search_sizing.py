"""`holdout: auto`: how many records certify follows from the bound and from the discordance seen in the search."""

from __future__ import annotations

import pytest
from search_support import FakeExecutor, constraint, make_plan, run

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


@pytest.mark.parametrize(("there", "limited"), [(None, True), (900, True), (40, False)])
def test_a_holdout_smaller_than_needed_is_used_without_a_limit(there: int | None, limited: bool) -> None:
    """A limit is part of an evaluation's key: one that changes with the discordance would measure the same again."""
    executor = FakeExecutor()
    front = run(make_plan(trials=6, holdout_auto=True, holdout_records=there), executor)
    limits = {r.limit for r in executor.submitted if r.split == "holdout"}
    assert limits
    assert (None not in limits) == limited
    assert any("records are needed at the observed discordance" in line for line in front.explanation)
