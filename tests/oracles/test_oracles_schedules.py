"""The schedule oracles, worked out by hand."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest

from oracles import schedules as oracle
from oracles.basics import mean


def test_pyramid_drop_averages_270_tokens() -> None:
    counts = oracle.pyramid_drop(576, 32, [8, 16, 24])
    assert [counts[layer] for layer in (0, 7, 8, 15, 16, 24, 31)] == [576, 576, 288, 288, 144, 72, 72]
    assert mean(counts) == 270  # the sheet's number
    assert oracle.pyramid_drop(9, 3, [1, 2]) == [9, 4, 2]


def test_aim_falls_by_an_eighth_a_layer() -> None:
    rates = oracle.aim()
    assert len(rates) == 28
    assert [rates[layer] for layer in (0, 14, 15, 16, 21, 22, 27)] == [1, 1, 0.875, 0.75, 0.125, 0, 0]
    own = oracle.aim(shift=0)
    assert [own[layer] for layer in (13, 14, 20, 21)] == [1, 0.875, 0.125, 0]


def test_logistic_is_safe_far_out() -> None:
    assert oracle.logistic(0) == 0.5
    assert oracle.logistic(log(3)) == pytest.approx(0.25)
    assert oracle.logistic(-log(3)) == pytest.approx(0.75)
    assert oracle.logistic(800) == 0
    assert oracle.logistic(-800) == 1


def test_p_sigmoid_by_hand() -> None:
    assert oracle.p_sigmoid([4, 5, 6], 0, 1, 0.5, 2 * log(3)) == pytest.approx([0.75, 0.5, 0.25])
    assert oracle.p_sigmoid([4], 0, 1, 0, 5) == [0.5]  # one layer stands at x = 0
    assert oracle.p_sigmoid([4, 5, 6], 0.2, 1, 0.5, 2 * log(3)) == pytest.approx([0.8, 0.6, 0.4])


@pytest.mark.parametrize("slope", [0.5, 8])
@pytest.mark.parametrize("budget", [0.06, 0.3, 0.5, 0.95])
def test_p_sigmoid_meets_its_budget(budget: float, slope: float) -> None:
    rates = oracle.p_sigmoid_to_budget(range(2, 32), 0.05, 1, slope, budget)
    assert mean(rates) == pytest.approx(budget, abs=1e-9)
    assert rates == sorted(rates, reverse=True)


def test_p_sigmoid_to_budget_finds_mid() -> None:
    # a symmetric curve: the mean 1/2 means mid = 1/2
    assert oracle.p_sigmoid_to_budget([0, 1, 2], 0, 1, 2 * log(3), 0.5) == pytest.approx([0.75, 0.5, 0.25])


def test_mutual_information() -> None:
    assert oracle.mutual_information(np.array([[0.25, 0.25], [0.25, 0.25]])) == pytest.approx(0)
    assert oracle.mutual_information(np.array([[1.0, 2], [2, 4]])) == pytest.approx(0)
    assert oracle.mutual_information(np.array([[3.0, 0], [0, 3]])) == pytest.approx(log(2))
    # joint 1/2, 0, 1/4, 1/4: margins 1/2, 1/2 and 3/4, 1/4
    hand = 0.5 * log(4 / 3) + 0.25 * log(2 / 3) + 0.25 * log(2)
    assert oracle.mutual_information(np.array([[2.0, 0], [1, 1]])) == pytest.approx(hand)


def test_autoprune25_scales_to_the_target() -> None:
    # slope ln 3 about layer 1: shape 3/4, 1/2, 1/4
    assert oracle.autoprune25(3, 0, 1, log(3), 1, 0.25) == pytest.approx([0.375, 0.25, 0.125])
    # 1 is cut: 1 + .5 c + .25 c = 2.25, c = 5/3
    assert oracle.autoprune25(3, 0, 1, log(3), 1, 0.75) == pytest.approx([1, 5 / 6, 5 / 12])


def test_autoprune25_flattens_with_information() -> None:
    assert oracle.autoprune25(3, 9, 1, log(3), 1, 0.25) == pytest.approx([0.25] * 3)
    # slope ln 3 - 2 (ln 3) / 4 = (ln 3) / 2: the shape is 1 / (1 + 3^(-1/2)), 1/2 and its complement
    first = 1 / (1 + exp(-log(3) / 2))
    found = oracle.autoprune25(3, log(3) / 4, 1, log(3), 2, 0.25)
    assert found == pytest.approx([first / 2, 0.25, (1 - first) / 2])
