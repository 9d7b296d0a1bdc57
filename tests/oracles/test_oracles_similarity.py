"""The similarity oracles on three or four tokens, worked out by hand."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest

from oracles import similarity as oracle


def test_g_prune_divides_by_degree() -> None:
    features = np.array([[1.0, 0], [3, 0], [0, 5]])
    # rows (1/2, 1/2, 0) twice and (0, 0, 1): the signal 1, 3, 5 becomes 2, 2, 5 and stays; degrees 2, 2, 1
    assert oracle.g_prune(features) == pytest.approx([1, 1, 5])


def test_g_prune_hops() -> None:
    features = np.array([[2.0, 0], [0.6, 0.8]])  # cosine .6; at this temperature rows are (3/4, 1/4), (1/4, 3/4)
    temperature = 0.4 / log(3)
    assert oracle.g_prune(features, temperature=temperature, hops=1) == pytest.approx([0.875, 0.625])
    assert oracle.g_prune(features, temperature=temperature, hops=2) == pytest.approx([0.8125, 0.6875])
    # an edge of .6 is below .7: self loops only
    assert oracle.g_prune(features, threshold=0.7, hops=3) == pytest.approx([2, 1])


def test_greedyprune_saliency_is_the_cosine_to_the_last_word() -> None:
    visual = np.array([[2.0, 0], [0, 3], [3, 4]])
    assert oracle.greedyprune_saliency(visual, np.array([5.0, 0])) == pytest.approx([1, 0, 0.6])


def test_catp_stage_1_covers_and_aligns() -> None:
    features, text = np.array([[1.0, 0], [1, 0], [0, 1]]), np.array([[0.0, 1], [0, 3]])
    # {0}: 1 + 1 + .5 + .7/2 = 2.85, {2}: .5 + .5 + 1 + .7 = 2.7; then {0,2}: 3 + .35 + .7
    assert oracle.catp_objective(features, text, [0]) == pytest.approx(2.85)
    assert oracle.catp_objective(features, text, [0, 2]) == pytest.approx(4.05)
    assert oracle.catp_stage_1(features, text, 2) == [0, 2]
    assert oracle.catp_stage_1(features, text, 1, weight=2) == [2]  # 3.5 against 4
    assert oracle.catp_stage_1(features, text, 1, weight=1) == [0]  # 3 against 3


def test_saint_vit_drops_what_others_repeat() -> None:
    keys = np.array([[1.0, 0], [1, 0], [0.6, 0.8], [0, 1]])
    assert oracle.saint_redundancy(keys, [0, 1, 2, 3]) == pytest.approx([1.6, 1.6, 2.0, 0.8])
    assert oracle.saint_redundancy(keys, [0, 1, 3]) == pytest.approx([1, 1, 0])
    assert oracle.saint_vit(keys, 3) == [0, 1, 3]
    assert oracle.saint_vit(keys, 2) == [1, 3]
    assert oracle.saint_vit(keys, 1, step=3) == [3]


def test_saint_vit_counts_again_after_each_step() -> None:
    keys = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    # sums: 1.4, .8 + .96 = 1.76, .6 + .96 = 1.56, 0. One by one: 1 drops, then 0 and 2 tie at .6 and 0 drops.
    assert oracle.saint_vit(keys, 2, step=1) == [2, 3]
    assert oracle.saint_vit(keys, 2, step=2) == [0, 3]


def test_saint_lm_needs_enough_close_neighbours() -> None:
    keys = np.array([[1.0, 0], [1, 0], [0, 1], [2, 0]])
    found = oracle.saint_lm(keys, neighbours=2)
    assert found == pytest.approx([2 * exp(1.7), 0, 0, 0])
    assert oracle.saint_lm(keys, neighbours=3) == [0, 0, 0, 0]
    keys[3] = (0.8, 0.6)  # .8 < .83
    assert oracle.saint_lm(keys, neighbours=1)[0] == pytest.approx(exp(1.7))
