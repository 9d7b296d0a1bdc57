"""Rank correlations of measures with held-out accuracy."""

from __future__ import annotations

import random

import pytest
from scipy.stats import spearmanr

from autoprune.policy.front import Agreement, Front
from autoprune.search.agreement import agreement, spearman


def test_spearman_by_hand_and_by_scipy_with_ties() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)  # 1 - 6·2 / (4·15)
    draw = random.Random(0)
    for _ in range(20):
        pairs = [(draw.randrange(6), draw.randrange(4)) for _ in range(12)]
        one, other = [a for a, _ in pairs], [b for _, b in pairs]
        assert spearman(one, other) == pytest.approx(spearmanr(one, other).statistic)


def test_what_cannot_be_ordered_has_no_correlation() -> None:
    assert spearman([1, 2, 3], [1, 2, 3]) is None
    assert spearman([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert spearman([1, 2, 3, 4], [0.5] * 4) is None


def test_better_is_higher_whatever_the_measure() -> None:
    cheap = [{"nll": 1.0 + i, "acc": 0.9 - i / 10, "budget": 1 - i / 5} for i in range(4)]
    held = [{"acc": 0.8 - i / 10, "nll": 0.0, "budget": 0.0} for i in range(4)]
    better = {"nll": "lower", "acc": "higher", "budget": "lower"}
    found = agreement(cheap, held, better, ("acc",), 0.3)  # type: ignore[arg-type]
    assert [(one.measure, one.accuracy, one.n, one.target) for one in found] == [
        ("nll", "acc", 4, 0.3),
        ("acc", "acc", 4, 0.3),
        ("budget", "acc", 4, 0.3),
    ]
    assert [one.rho for one in found] == pytest.approx([1, 1, -1])
    itself = agreement(cheap, cheap, better, ("acc",))  # type: ignore[arg-type]
    assert [one.measure for one in itself] == ["nll", "budget"]


def test_fronts_of_before_have_none_and_others_keep_theirs() -> None:
    one = Agreement("nll", "acc", None, 3)
    front = Front("study", {}, (), {"complete": 0, "failed": 0, "running": 0}, agreement=(one,))
    written = front.to_json()
    assert written["agreement"] == [{"measure": "nll", "accuracy": "acc", "rho": None, "n": 3, "target": None}]
    assert Front.from_json(written) == front
    del written["agreement"]
    assert Front.from_json(written).agreement == ()
