"""`holdout: auto`: how many records certify follows from the margins seen in the search."""

from __future__ import annotations

import numpy as np
import pytest
from search_support import FakeExecutor, constraint, make_plan, run

from autoprune.ports import Measurement
from autoprune.search.certify import certify, standing
from autoprune.search.sizing import images_for, observed_need


def measured(values: list[float], per_image: int) -> Measurement:
    images = tuple(i // per_image for i in range(len(values)))
    return Measurement({"acc": sum(values) / len(values)}, {"acc": tuple(values)}, images)


BASE = [1.0] * 90 + [0.0] * 10
GOAL = constraint("acc", ">=", 0.97)


def world(rng: np.random.Generator, worths: list[float], images: int) -> tuple[Measurement, list[Measurement]]:
    """A baseline right on 95 %, and policies that keep these shares of what it is right on."""
    base = rng.random(images) < 0.95
    rows = [base, *(base & (rng.random(images) < worth) for worth in worths)]
    made = [measured(row.astype(float).tolist(), 1) for row in rows]
    return made[0], made[1:]


@pytest.mark.parametrize("worths", [[0.97], [0.97, 0.975, 0.98, 0.97]])
def test_the_whole_sequence_passes_four_times_in_five(worths: list[float]) -> None:
    """At the margins of a large search split; sized for one policy alone, four of them would pass far less often."""
    rng, goal = np.random.default_rng(3), constraint("acc", ">=", 0.955)
    base, policies = world(rng, worths, 20_000)
    need = observed_need([goal], policies, base, 0.95)
    assert need is not None
    assert need.records is not None
    runs = [world(rng, worths, need.records) for _ in range(150)]
    passed = sum(standing(certify([goal], many, base, 0.95)[-1]) == "certified" for base, many in runs)
    assert 0.7 <= passed / 150 <= 0.93
    alone = observed_need([goal], policies[:1], base, 0.95)
    assert alone is not None
    assert alone.records is not None
    assert (alone.records < 0.8 * need.records) == (len(worths) > 1)


def test_records_are_images_times_records_per_image() -> None:
    lost = [0.0] * 2 + [1.0] * 88 + [0.0] * 10
    own = [v for v in lost for _ in range(3)]
    base = [v for v in BASE for _ in range(3)]
    goal = constraint("acc", ">=", 0.9)
    one = observed_need([goal], [measured(lost, 1)], measured(BASE, 1), 0.95)
    three = observed_need([goal], [measured(own, 3)], measured(base, 3), 0.95)
    assert one is not None
    assert three is not None
    assert one.records is not None
    assert three.records == 3 * one.records


def test_a_finalist_on_its_bound_needs_more_than_there_can_be() -> None:
    lost = [0.0] * 3 + [1.0] * 87 + [0.0] * 10
    need = observed_need([GOAL], [measured(BASE, 1), measured(lost, 1)], measured(BASE, 1), 0.95)
    assert need is not None
    assert (need.tests, need.records) == (2, None)


def test_points_are_a_factor_of_the_accuracy() -> None:
    points = images_for(constraint("acc", ">=", 1.0, -0.03), 0.6, 0.05, 0.95)
    factor = images_for(constraint("acc", ">=", 0.95), 0.6, 0.05, 0.95)
    assert points is not None
    assert factor is not None
    assert points == pytest.approx(factor, rel=0.01)


def test_any_measure_of_the_records_tells_a_size() -> None:
    smooth = [v * 0.95 + i / 1e4 for i, v in enumerate(BASE)]
    for goal in (constraint("acc", ">=", 0.0, 0.7), constraint("acc", ">=", 0.9), constraint("acc", "<=", 1.2)):
        need = observed_need([goal], [measured(smooth, 1)], measured(BASE, 1), 0.95)
        assert need is not None
        assert need.records is not None
    exact = Measurement({"acc": 0.9}, {}, tuple(range(100)))
    assert observed_need([GOAL], [exact], measured(BASE, 1), 0.95) is None


@pytest.mark.parametrize(("there", "limited"), [(None, True), (100_000, True), (40, False)])
def test_a_holdout_smaller_than_needed_is_used_without_a_limit(there: int | None, limited: bool) -> None:
    """A limit is part of an evaluation's key: one that changes with the margins would measure the same again."""
    executor = FakeExecutor()
    front = run(make_plan(trials=6, holdout_auto=True, holdout_records=there), executor)
    limits = {r.limit for r in executor.submitted if r.split == "holdout"}
    assert limits
    assert (None not in limits) == limited
    (said,) = [line for line in front.explanation if line.startswith("holdout: ")]
    assert "at the margins seen in the search" in said
    if there is not None:
        assert f"{next(iter(limits)) or 'all'} of {there} are used" in said


def test_a_fixed_holdout_says_what_it_lacks_where_something_is_undecided() -> None:
    fronts = [
        run(make_plan(trials=6, constraints=(constraint("acc", ">=", goal),), holdout_records=900))
        for goal in (0.92, 0.94)
    ]
    assert [[set(m.constraints.values()) for m in front.members] for front in fronts] == [
        [{"certified"}],
        [{"undecided"}],
    ]
    first, second = ([line for line in front.explanation if line.startswith("holdout: ")] for front in fronts)
    assert first == []
    assert "records pass the one test" in second[0]
    assert "all of 900 are used" in second[0]
