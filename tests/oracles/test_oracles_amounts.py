"""The count oracles, worked out by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest

from oracles import amounts as oracle


def test_keep_rounds_half_up_and_keeps_one() -> None:
    half, tiny = Fraction(1, 2), Fraction(1, 1000)
    assert [oracle.keep(half, n) for n in (1, 2, 3, 5)] == [1, 1, 2, 3]
    assert [oracle.keep(tiny, 10), oracle.keep(Fraction(0), 10), oracle.keep(Fraction(1), 7)] == [1, 0, 7]
    assert oracle.keep(Fraction(1, 9), 576) == 64


def test_largest_remainder() -> None:
    assert oracle.largest_remainder(10, [1, 1, 1]) == [4, 3, 3]
    assert oracle.largest_remainder(10, [2, 1, 1]) == [5, 3, 2]  # 5, 2.5, 2.5
    assert oracle.largest_remainder(7, [Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)]) == [3, 2, 2]  # 3.5 1.75 1.75
    assert oracle.largest_remainder(4, [0, 0]) == [2, 2]


def test_largest_remainder_refills_what_a_full_group_cannot_take() -> None:
    assert oracle.largest_remainder(10, [8, 1, 1], [5, 9, 9]) == [5, 3, 2]
    assert oracle.largest_remainder(10, [8, 1, 1], [5, 2, 9]) == [5, 2, 3]


def test_to_budget_is_the_largest_count_inside() -> None:
    assert oracle.budget(10, 4, [(2, 5)]) == Fraction(30, 40)
    assert oracle.to_budget(10, 4, [], 1, Fraction(1, 2)) == 3  # 10 + 3 k <= 20
    assert oracle.to_budget(10, 4, [(1, 4)], 2, Fraction(1, 2)) == 3  # 14 + 2 k <= 20
    assert oracle.to_budget(10, 4, [(1, 4)], 2, Fraction(11, 20)) is None  # 22 of 40 already
    assert oracle.to_budget(10, 4, [], 2, Fraction(1, 2)) == -1  # 20 + 2 k <= 20 leaves no token


def test_local_outlier_factors() -> None:
    # k = 1: nearest 1, 0, 1; 1-distances 1, 1, 3; reaches 1, 1, 3: densities 1, 1, 1/3
    assert oracle.local_outlier_factors([0.0, 1, 4], 1) == pytest.approx([1, 1, 3])
    flat = oracle.local_outlier_factors([0.0, 1, 2, 3, 4, 5, 30], 2)
    assert max(range(7), key=flat.__getitem__) == 6
    assert flat[6] > 1.5 > max(flat[:6])


def test_curves() -> None:
    assert oracle.linear([2, 3, 4], 1, 0.5) == [1, 0.75, 0.5]
    assert oracle.geometric([8, 9, 15, 16, 24], 0.5, 8) == [0.5, 0.5, 0.5, 0.25, 0.125]
