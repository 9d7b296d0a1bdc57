"""Rates, paired comparisons and families of them, against counting by hand."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from benchmarks.statistics import clopper_pearson, holm, paired, sign_test


def tail(n: int, rate: float, most: int) -> float:
    return sum(comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(most + 1))


@pytest.mark.parametrize(("hits", "of"), [(0, 40), (3, 50), (50, 50)])
def test_exact_bounds_leave_just_the_tail_they_promise(hits: int, of: int) -> None:
    low, high = clopper_pearson(hits, of, 0.95)
    assert low <= hits / of <= high
    if hits < of:
        assert tail(of, high, hits) == pytest.approx(0.05, abs=1e-9)
    if hits > 0:
        assert 1 - tail(of, low, hits - 1) == pytest.approx(0.05, abs=1e-9)


def test_a_rate_needs_hits_among_trials() -> None:
    with pytest.raises(ValueError, match="5 of 4"):
        clopper_pearson(5, 4, 0.95)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (9, 1), (4, 6), (30, 12)])
def test_the_sign_test_counts_both_tails(wins: int, losses: int) -> None:
    n = wins + losses
    assert sign_test(wins, losses) == pytest.approx(min(1.0, 2 * tail(n, 0.5, min(wins, losses))))
    assert sign_test(wins, losses) == sign_test(losses, wins)


def test_a_pair_of_policies() -> None:
    first, second = np.zeros(400), np.zeros(400)
    first[:30] = 1
    second[20:40] = 1
    found = paired(first, second)
    assert (found.wins, found.losses, found.mean) == (20, 10, pytest.approx(10 / 400))
    low, high = found.interval(0.95)
    assert low < found.mean < high
    assert found.error == pytest.approx(np.std(first - second, ddof=1) / 20)
    assert found.detectable(0.05) == pytest.approx((1.966 + 0.8425) * found.error, rel=1e-2)
    same = paired(first, first)
    assert same.p == 1
    assert same.detectable(0.05) > 0, "no discordance seen proves nothing about what could be found"


def test_a_comparison_refuses_what_is_not_paired_or_not_binary() -> None:
    with pytest.raises(ValueError, match="the same images"):
        paired(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="0 or 1"):
        paired(np.zeros(3), np.full(3, 0.5))


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
