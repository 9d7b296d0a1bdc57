"""Counts along a curve whose sum is fixed."""

from __future__ import annotations

from itertools import pairwise
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.policy.retention import retained


def test_by_hand() -> None:
    assert retained([3, 2, 1], [1, 1, 1], 12, 99) == (6, 4, 2)
    assert retained([3, 2, 1], [1, 1, 1], 12, 5) == (5, 5, 2)  # 5, then c·2 + c·1 = 7: 4 2/3 and 2 1/3
    assert retained([1, 1, 1], [1, 1, 1], 8, 99) == (3, 3, 2)  # equal remainders: the earlier ones
    assert retained([4, 1, 0.001], [1, 1, 1], 16, 99, 2) == (11, 3, 2)  # c·(4 + 1) = 14: 11.2 and 2.8
    assert retained([4, 1, 0.001], [1, 1, 1], 16, 99) == (12, 3, 1)  # one is left to the end
    assert retained([2, 1], [1, 3], 11, 99) == (
        5,
        2,
    )  # c·(2 + 3) = 11: 4.4 and 2.2; one of the left 1 fits nowhere else


@pytest.mark.parametrize(
    ("total", "expected"), [(30, (10, 10, 10)), (99, (10, 10, 10)), (3, (1, 1, 1)), (1, (1, 1, 1))]
)
def test_what_cannot_be_met(total: int, expected: tuple[int, ...]) -> None:
    assert retained([3, 2, 1], [1, 1, 1], total, 10) == expected


@given(
    st.integers(1, 40),
    st.floats(0, 30),
    st.floats(0, 1),
    st.integers(1, 700),
    st.integers(0, 30_000),
    st.integers(1, 5),
    st.integers(1, 40),
)
def test_the_sum_is_met_and_counts_never_rise(
    layers: int, slope: float, mid: float, most: int, total: int, tail: int, least: int
) -> None:
    shape = [1 / (1 + exp(slope * (place / max(layers - 1, 1) - mid))) for place in range(layers)]
    weights = [1] * (layers - 1) + [tail]
    least = min(least, most)
    counts = retained(shape, weights, total, most, least)
    spent = sum(w * k for w, k in zip(weights, counts, strict=True))
    assert all(b <= a for a, b in pairwise(counts))
    assert least <= min(counts) <= max(counts) <= most
    if sum(weights) * least <= total <= sum(weights) * most:
        assert total - tail < spent <= total
    else:
        assert set(counts) == ({least} if total < sum(weights) * least else {most})
