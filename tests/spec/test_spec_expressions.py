"""Objectives, constraints and durations: what they mean and where they point when they are wrong."""

from __future__ import annotations

import pytest

from autoprune.spec.durations import seconds
from autoprune.spec.expressions import ExpressionError, parse_constraint, parse_objective, uses_points
from autoprune.spec.sizes import cache_size


@pytest.mark.parametrize(
    ("text", "op", "scale", "shift"),
    [
        ("exact_match >= 0.97 * baseline", ">=", 0.97, 0.0),
        ("exact_match>=.97*baseline", ">=", 0.97, 0.0),
        ("kv_bytes <= 1e6", "<=", 0.0, 1e6),
        ("kv_bytes <= baseline", "<=", 1.0, 0.0),
        ("exact_match >= baseline - 1.5 points", ">=", 1.0, -0.015),
        ("prefill_flops <= baseline - 30 %", "<=", 0.7, 0.0),
        ("answer_nll <= baseline + 5%", "<=", 1.05, 0.0),
        ("answer_nll >= -2", ">=", 0.0, -2.0),
    ],
)
def test_bounds_are_linear_in_the_baseline(text: str, op: str, scale: float, shift: float) -> None:
    constraint = parse_constraint(text)
    assert constraint.op == op
    assert constraint.scale == pytest.approx(scale, abs=1e-12)
    assert constraint.shift == pytest.approx(shift, abs=1e-12)
    assert constraint.bound(2.0) == pytest.approx(scale * 2.0 + shift)


def test_slack_is_positive_on_the_wrong_side() -> None:
    floor = parse_constraint("exact_match >= 0.5 * baseline")
    roof = parse_constraint("kv_bytes <= 0.5 * baseline")
    assert floor.slack(0.3, 0.8) == pytest.approx(0.1)
    assert floor.slack(0.5, 0.8) == pytest.approx(-0.1)
    assert roof.slack(6.0, 10.0) == pytest.approx(1.0)
    assert roof.slack(4.0, 10.0) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("text", "offset", "says"),
    [
        ("exact_match > 0.9", 12, "<= or >="),
        ("exact_match >= 0.97 * baselin", 22, "did you mean 'baseline'"),
        ("exact_match >= 0.97 baseline", 20, "left over"),
        ("exact_match >=", 14, "ends where"),
        ("exact_match >= baseline - 3", 27, "3 points"),
        ("exact_match >= baseline ± 3 points", 24, "one side"),
        (">= 3", 0, "a measure"),
        ("exact_match >= 0.9 & x", 19, "not understood"),
    ],
)
def test_wrong_constraints_say_where(text: str, offset: int, says: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_constraint(text)
    assert says in str(caught.value)
    assert caught.value.offset == offset


def test_objectives_take_options() -> None:
    plain = parse_objective("minimize prefill_flops")
    assert (plain.direction, plain.label, plain.text) == ("minimize", "prefill_flops", "minimize prefill_flops")
    rich = parse_objective({"minimize": {"information_flow": {"layers": ["1/2", -1], "distance": "l2"}}})
    assert rich.measure.name == "information_flow"
    assert rich.measure.options == {"layers": ["1/2", -1], "distance": "l2"}
    assert rich.label == "information_flow(distance=l2, layers=1/2/-1)"


@pytest.mark.parametrize(
    "value", ["prefill_flops", "minimise x", {"minimize": 3}, {"less": "x"}, 7, {"minimize": {"a": {}, "b": {}}}]
)
def test_wrong_objectives_are_refused(value: object) -> None:
    with pytest.raises(ExpressionError, match=r"minimize|direction"):
        parse_objective(value)


def test_points() -> None:
    assert uses_points("exact_match >= baseline - 1 point")
    assert not uses_points("exact_match >= baseline - 1 %")


def test_durations() -> None:
    assert seconds("3h") == 10800
    assert seconds("1h30m") == 5400
    assert seconds("1.5m") == 90
    assert seconds(12) == 12
    for wrong in ("3 hours", "", "h", "0s", True):
        with pytest.raises(ValueError, match="duration"):
            seconds(wrong)


def test_weights_show_in_a_label() -> None:
    weighed = parse_objective({"minimize": {"information_flow": {"layers": {"1/2": 0.3, "last": 0.7}}}})
    assert weighed.label == "information_flow(layers=1/2:0.3/last:0.7)"


def test_sizes() -> None:
    written = ("2GiB", "500 MB", "1.5G", "3kib", "10b", "7", 12, 0, False, "auto")
    expected = [2 * 2**30, 500 * 10**6, 15 * 10**8, 3072, 10, 7, 12, 0, 0, "auto"]
    assert [cache_size(value) for value in written] == expected
    for wrong in ("2 gigs", "", "-1", -1, True, "GiB", 1.5, "5ib", None):
        with pytest.raises(ValueError, match="not the size of a cache"):
            cache_size(wrong)
