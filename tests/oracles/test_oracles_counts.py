"""The count oracles, worked out by hand."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from oracles import counts as oracle


def test_quantile_is_linear() -> None:
    assert oracle.quantile([4, 1, 3, 2], 0.25) == 1.75
    assert oracle.quantile([4, 1, 3, 2], 0.75) == 3.25
    assert oracle.quantile([5], 0.75) == 5


def test_outliers_lie_strictly_above_the_fence() -> None:
    assert oracle.iqr_outliers([1, 100, 2, 3, 4]) == 1  # Q1 2, Q3 4: fence 7
    assert oracle.iqr_outliers([1, 7, 2, 3, 4]) == 0
    assert oracle.iqr_outliers([1, 7.01, 2, 3, 4]) == 1
    assert oracle.iqr_outliers([1, 1, 1, 1]) == 0


def test_elbow_is_farthest_from_the_chord() -> None:
    assert oracle.elbow([2, 10, 0, 1]) == 2  # gaps below the chord: 4.67 at 2, 2.33 at 1
    assert oracle.elbow([10, 9, 8, 0]) == 3  # a bend to the other side: 2.33 at 9, 4.67 at 8
    assert oracle.elbow([3, 2, 1]) == 3
    assert oracle.elbow([5, 5, 5, 5]) == 4
    assert oracle.elbow([2, 1]) == 2
    assert oracle.elbow([10, 0, 0]) == 2
    assert oracle.elbow([0.3, 0.2, 0.1]) == 3
    assert oracle.elbow([10, 4, 4, -2]) == 2  # gaps 2 and 2: the first


def test_flowcut_drops_less_when_attention_is_flat() -> None:
    assert oracle.entropy_share([3, 3, 3]) == pytest.approx(1)
    assert oracle.entropy_share([2, 2, 0, 0]) == pytest.approx(0.5)
    assert oracle.entropy_share([1, 0]) == 0
    assert oracle.entropy_share([7]) == 0
    assert oracle.entropy_share([1, 3]) == pytest.approx((0.25 * log(4) + 0.75 * log(4 / 3)) / log(2))
    peaked = [1.0] + [0.0] * 9
    assert oracle.flowcut_drop(peaked, 6, remaining=4) == 2
    assert oracle.flowcut_drop([1.0] * 10, 6, remaining=4) == 0
    assert oracle.flowcut_drop([2, 2, 0, 0], 0, remaining=1) == 3  # 4 (1 - 1/4)
    assert oracle.flowcut_drop([1.0] * 10, 6, remaining=0) == 4
    assert oracle.flowcut_drop(peaked, 12, remaining=4) == 0


def test_matrix_rank() -> None:
    assert oracle.matrix_rank(np.array([[1.0, 2], [2, 4]])) == 1
    assert oracle.matrix_rank(np.array([[0.0, 1], [1, 0]])) == 2
    assert oracle.matrix_rank(np.array([[1.0, 0, 1], [0, 1, 1], [1, 1, 2]])) == 2
    assert oracle.matrix_rank(np.array([[1.0, 0, 0, 0], [0, 0, 0, 1]])) == 2
    assert oracle.matrix_rank(np.zeros((2, 3))) == 0


def test_rank_count_scales_and_stays_in_range() -> None:
    block = np.array([[1.0, 0, 0, 0], [0, 0, 0, 1]])
    assert oracle.rank_count(block) == 2
    assert oracle.rank_count(block, scale=0.5) == 3
    assert oracle.rank_count(block, scale=0.75, bias=1) == 4  # half of a token goes
    assert oracle.rank_count(block, bias=9) == 4
    assert oracle.rank_count(block, bias=-7) == 1
