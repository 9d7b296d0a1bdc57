"""Every number beside a verdict of a front is true at once, at the stated confidence: simulated holdouts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from search_support import constraint

from autoprune.ports import Measurement
from autoprune.search.certify import certify, judge

GOAL = constraint("acc", ">=", 0.9)
RUNS, IMAGES = 200, 300
LIMIT = 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)
WORLDS = {
    "all on the bound": [0.9] * 5,
    "far above it": [0.98] * 6,
    "falling through it": [0.97, 0.94, 0.9, 0.88],
    "all below it": [0.88, 0.8, 0.7, 0.6, 0.5],
}


def holdout(rng: np.random.Generator, worths: list[float]) -> tuple[Measurement, list[Measurement]]:
    """A baseline right on 95 %, and policies that keep these shares of what it is right on."""
    base = rng.random(IMAGES) < 0.95
    rows = [base, *(base & (rng.random(IMAGES) < worth) for worth in worths)]
    images = tuple(range(IMAGES))
    made = [Measurement({"acc": float(row.mean())}, {"acc": tuple(row.astype(float))}, images) for row in rows]
    return made[0], made[1:]


def shown(base: Measurement, policies: list[Measurement]) -> list[float]:
    """The numbers beside the verdicts, -inf where there is none."""
    verdicts = [v[GOAL.text] for v in certify([GOAL], policies, base, 0.95)]
    assert all(v.certifiable is not None and v.certifiable >= 0.9 for v in verdicts if v.state == "certified")
    return [-math.inf if v.certifiable is None else v.certifiable for v in verdicts]


@pytest.mark.parametrize("world", WORLDS)
def test_numbers_of_a_front_are_true_together(world: str) -> None:
    worths, rng = WORLDS[world], np.random.default_rng(4)
    false = known = 0
    for _ in range(RUNS):
        numbers = shown(*holdout(rng, worths))
        false += any(number > worth for number, worth in zip(numbers, worths, strict=True))
        known += max(numbers) > -math.inf
    assert false / RUNS <= LIMIT
    assert known == RUNS, "some bound is always reported"


def test_own_bounds_side_by_side_would_not_be() -> None:
    """The negative controls: each policy's own number, and what a fixed sequence over all bounds seems to allow."""
    worths, rng = WORLDS["all below it"], np.random.default_rng(4)
    apart = running = 0
    for _ in range(RUNS):
        base, policies = holdout(rng, worths)
        own = [judge(GOAL, policy, base, 0.95).certifiable or 0.0 for policy in policies]
        apart += any(number > worth for number, worth in zip(own, worths, strict=True))
        prefix = np.minimum.accumulate(own)
        running += any(prefix > np.array(worths))
    assert apart / RUNS > LIMIT
    assert running / RUNS > LIMIT, "a sequence for each bound runs the risk once for each bound"


def test_where_all_is_certified_each_has_a_number_of_its_own() -> None:
    base, policies = holdout(np.random.default_rng(1), [0.99, 0.985, 0.97])
    numbers = shown(base, policies)
    alone = [judge(GOAL, policy, base, 0.95).certifiable or 0.0 for policy in policies]
    assert all(0.9 < number < own for number, own in zip(numbers, alone, strict=True)), "certain of three costs more"
    assert shown(base, policies[:1]) == pytest.approx(alone[:1])


def test_the_test_that_ends_the_sequence_has_its_own_number_and_later_ones_none() -> None:
    base, policies = holdout(np.random.default_rng(1), [0.99, 0.9, 0.99, 0.5])
    verdicts = [v[GOAL.text] for v in certify([GOAL], policies, base, 0.95)]
    assert [v.state for v in verdicts] == ["certified", "undecided", "undecided", "violated"]
    own = judge(GOAL, policies[1], base, 0.95).certifiable
    assert [v.certifiable for v in verdicts] == [0.9, own, None, None]
