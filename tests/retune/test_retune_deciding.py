"""The two decision tables, and the comparisons they stand on."""

from __future__ import annotations

import math

import pytest

from autoprune.policy.front import Estimate
from autoprune.ports import Measurement
from autoprune.retune.comparing import Before, Comparison, compare
from autoprune.retune.deciding import after_measuring, after_searching
from autoprune.spec.retuning import Margin

POINT = Margin.read("1 point")


def made(right: list[float], first: int = 0) -> Measurement:
    """One question per image, named by its number."""
    ids = range(first, first + len(right))
    return Measurement(
        {"exact_match": sum(right) / len(right)},
        {"exact_match": tuple(right)},
        tuple(ids),
        tuple(str(i) for i in ids),
    )


def known(lower: float, upper: float, old: float = 0.9) -> Comparison:
    return Comparison("exact_match", "paired", old, old + (lower + upper) / 2, lower, upper, 0.01, 500)


SAME, WORSE, UNSURE = known(-0.005, 0.005), known(-0.09, -0.05), known(-0.03, 0.01)
BROKEN = known(-0.9, -0.8)


@pytest.mark.parametrize(
    ("champion", "old_self", "model", "step"),
    [
        ("certified", SAME, SAME, "recertify"),
        ("certified", SAME, WORSE, "recertify"),
        ("certified", WORSE, SAME, "search"),
        ("certified", UNSURE, SAME, "search"),
        ("undecided", SAME, SAME, "search"),
        ("violated", SAME, SAME, "search"),
        (None, SAME, SAME, "search"),
        ("certified", SAME, BROKEN, "keep"),
        ("violated", WORSE, BROKEN, "keep"),
        (None, SAME, BROKEN, "keep"),
    ],
)
def test_what_follows_from_measuring_the_champion(champion, old_self, model, step) -> None:
    decided = after_measuring(champion, [old_self], [model], "no such layer")
    assert decided.step == step
    assert decided.reason


def test_without_an_accuracy_nothing_is_recertified_or_promoted() -> None:
    assert after_measuring("certified", [], []).step == "search"
    assert after_searching("found", []).step == "keep"


@pytest.mark.parametrize(
    ("found", "against", "step"),
    [
        ("found", SAME, "promote"),
        ("found", known(0.02, 0.04), "promote"),
        ("found", UNSURE, "keep"),
        ("found", WORSE, "keep"),
        (None, SAME, "keep"),
    ],
)
def test_only_what_is_certified_and_surely_as_good_is_promoted(found, against, step) -> None:
    assert after_searching(found, [against]).step == step


def test_one_accuracy_that_is_worse_is_enough_to_keep() -> None:
    assert after_searching("found", [SAME, WORSE]).step == "keep"
    assert after_measuring("certified", [SAME, UNSURE], [SAME]).step == "search"


@pytest.mark.parametrize(
    ("lower", "upper", "state"),
    [(-0.01, 0.0, "non-inferior"), (-0.011, 0.0, "undecided"), (-0.03, -0.011, "inferior")],
)
def test_the_bounds_decide_and_not_the_estimate(lower, upper, state) -> None:
    assert known(lower, upper).state == state


def test_the_difference_is_paired_by_record() -> None:
    """Two of 600 answers lost: surely less than a point. The same two accuracies on other records say much less."""
    old = made([1.0] * 600)
    new = made([1.0] * 598 + [0.0] * 2)
    paired = compare("exact_match", new, Before(old, {}), POINT, 0.95)
    assert (paired.basis, paired.images) == ("paired", 600)
    assert paired.new - paired.old == pytest.approx(-2 / 600)
    assert -0.02 < paired.lower < -2 / 600 < paired.upper
    unpaired = compare("exact_match", new, Before(None, {"exact_match": Estimate(1.0, 0.99, 1.0)}), POINT, 0.95)
    assert unpaired.basis == "unpaired"
    assert unpaired.lower < paired.lower


def test_only_records_in_common_are_paired() -> None:
    old, new = made([1.0] * 300), made([0.0] * 100 + [1.0] * 300, first=200)
    paired = compare("exact_match", new, Before(old, {}), POINT, 0.95)
    assert (paired.images, paired.old, paired.new) == (100, 1.0, 0.0)
    assert paired.state == "inferior"


def test_the_same_policy_on_the_same_model_is_as_good_however_few_records_there_are() -> None:
    new = made([1.0, 0.0, 1.0])
    same = compare("exact_match", new, Before(None, {}, same=True), POINT, 0.95)
    assert (same.basis, same.state) == ("same", "non-inferior")
    assert compare("exact_match", new, Before(new, {}), POINT, 0.95).state == "undecided"


def test_with_nothing_to_compare_nothing_is_claimed() -> None:
    unknown = compare("exact_match", made([1.0] * 500), Before(None, {}), POINT, 0.95)
    assert (unknown.basis, unknown.state) == ("unknown", "undecided")
    assert unknown.to_json()["lower"] is None
    one = compare(
        "exact_match", made([1.0] * 500), Before(None, {"exact_match": Estimate(1.0, None, None)}), POINT, 0.95
    )
    assert (one.basis, one.lower) == ("unpaired", -math.inf)


def test_margins_are_points_or_parts() -> None:
    assert Margin.read("1 point").of(0.8) == 0.01
    assert Margin.read("2 points").of(0.8) == 0.02
    assert Margin.read("5 %").of(0.8) == pytest.approx(0.04)
