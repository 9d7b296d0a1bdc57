"""The intrinsic oracles: tiny projectors and patches worked out by hand; two ways to one Jacobian."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest

from oracles import intrinsic as oracle
from oracles.basics import norm


def test_gelu_at_zero_and_far_out() -> None:
    assert oracle.gelu(0) == 0
    assert oracle.gelu_slope(0) == 0.5
    assert oracle.gelu(8) == pytest.approx(8)
    assert oracle.gelu_slope(-9) == pytest.approx(0, abs=1e-12)
    assert oracle.gelu_slope(0.7) == pytest.approx((oracle.gelu(0.7 + 1e-5) - oracle.gelu(0.7 - 1e-5)) / 2e-5)


def test_zoo_closed_form_by_hand() -> None:
    zero, eye = np.zeros(2), np.eye(2)
    # at 0 the slope is 1/2: J = I / 2
    assert oracle.zoo_closed_form(np.zeros((1, 2)), eye, zero, eye) == pytest.approx([sqrt(0.5)])
    # J = (1, 1) diag(1/2) [[1, 1], [1, -1]] = (1, 0): the second column cancels
    w1, w2 = np.array([[1.0, 1], [1, -1]]), np.array([[1.0, 1]])
    assert oracle.zoo_closed_form(np.zeros((1, 2)), w1, zero, w2) == pytest.approx([1])
    # far to the right the slope is 1: J = W2 W1 = (2, 0)
    assert oracle.zoo_closed_form(np.zeros((1, 2)), w1, zero + 50, w2) == pytest.approx([2])


def test_zoo_finite_differences_by_hand() -> None:
    w1, w2 = np.array([[1.0, 1], [1, -1]]), np.array([[1.0, 1]])
    module = oracle.projector(w1, np.zeros(2), w2, np.array([7.0]))
    assert module(np.zeros(2)) == pytest.approx([7])
    # along the first axis the reply is 2 (gelu(h) - gelu(-h)) / 2h = 1, along the second it is 0
    assert oracle.zoo_finite_differences(np.zeros((1, 2)), module, np.eye(2)) == pytest.approx([0.5])
    assert oracle.zoo_finite_differences(np.zeros((1, 2)), module, np.eye(2)[:1]) == pytest.approx([1])


def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.Generator(np.random.PCG64(3))
    return draw.normal(size=(5, 6)), draw.normal(size=(8, 6)), draw.normal(size=8), draw.normal(size=(4, 8))


def test_zoo_closed_form_is_the_jacobian() -> None:
    x, w1, b1, w2 = problem()
    module = oracle.projector(w1, b1, w2, np.ones(4))
    assert oracle.zoo_frobenius(x, module) == pytest.approx(oracle.zoo_closed_form(x, w1, b1, w2), rel=1e-6)


def test_a_norm_by_hand() -> None:
    x, ones, zero = np.array([3.0, 1, 0, 5]), np.ones(2), np.zeros(2)
    assert oracle.normed(x, ones, zero, 0, True) == pytest.approx([1, -1, -1, 1])
    assert oracle.normed(np.array([1.0, 7]), np.array([2.0, 3]), ones, 0, False) == pytest.approx([1.4, 5.2])
    # with two values a LayerNorm without epsilon is a sign: it does not move
    assert oracle.norm_jacobian(x, ones, 0, True) == pytest.approx(np.zeros((4, 4)))
    # z = (1, 0) sqrt 2 at deviation 1 / sqrt 2: only across, by 1 / deviation
    assert oracle.norm_jacobian(np.array([1.0, 0]), ones, 0, False) == pytest.approx(np.diag([0, sqrt(2)]))


@pytest.mark.parametrize("runs", [1, 2, 3])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("size", [1, 0.03])  # epsilon counts for the small ones
def test_zoo_behind_a_norm_is_the_jacobian(size: float, centred: bool, runs: int) -> None:
    x, w1, b1, w2 = problem()
    draw, n = np.random.Generator(np.random.PCG64(5)), 6 // runs
    gain, shift = draw.normal(size=n), draw.normal(size=n)
    whole = oracle.projector(w1, b1, w2, np.ones(4))
    found = oracle.zoo_behind_a_norm(size * x, gain, shift, 1e-3, centred, w1, b1, w2)
    seen = oracle.zoo_frobenius(size * x, lambda v: whole(oracle.normed(v, gain, shift, 1e-3, centred)), 1e-6)
    assert seen == pytest.approx(found, rel=1e-5)


def test_many_directions_approach_the_closed_form() -> None:
    x, w1, b1, w2 = problem()
    along = oracle.directions(800, 6)
    assert [norm(u) for u in along] == pytest.approx([1] * 800)
    assert np.array_equal(along, oracle.directions(800, 6))
    assert not np.array_equal(along, oracle.directions(800, 6, seed=1))
    sampled = oracle.zoo_finite_differences(x, oracle.projector(w1, b1, w2, np.ones(4)), along)
    exact = [s / sqrt(6) for s in oracle.zoo_closed_form(x, w1, b1, w2)]
    # the mean length is a little below the root mean square one, by the spread of the lengths
    for seen, bound in zip(sampled, exact, strict=True):
        assert 0.8 * bound < seen < bound


def test_patch_entropy_counts_grey_levels() -> None:
    image = np.array([[0.0, 0, 1, 2], [255, 255, 3, 4], [9, 9, 0, 9], [9, 9, 9, 9]])
    quarter = 0.25 * 2 + 0.75 * log(4 / 3) / log(2)
    assert oracle.patch_entropy(image, 2) == pytest.approx([1, 2, 0, quarter])
    # as one patch: level 0 three times, 1, 2, 3, 4 once, 255 twice, 9 seven times
    whole = 3 / 16 * log(16 / 3) / log(2) + 4 * 4 / 16 + 2 / 16 * 3 + 7 / 16 * log(16 / 7) / log(2)
    assert oracle.patch_entropy(image, 4) == pytest.approx([whole])


def test_patch_entropy_leaves_a_torn_edge_out() -> None:
    image = np.zeros((3, 5))
    image[2], image[:, 4], image[0, 2] = 7, 7, 1
    assert oracle.patch_entropy(image, 2) == pytest.approx([0, 0.25 * 2 + 0.75 * log(4 / 3) / log(2)])


def test_grey_weighs_colours() -> None:
    assert oracle.grey(np.array([255.0, 0, 0])) == 76  # 76.245
    assert oracle.grey(np.array([100.0, 100, 100])) == 100
    assert oracle.grey(np.array([255.0, 255, 255])) == 255
    colours = np.array([[[255.0, 0, 0], [76, 76, 76]], [[76, 76, 76], [255, 0, 0]]])
    assert oracle.patch_entropy(colours, 2) == [0]


def test_vflowopt_mix_softmaxes_the_entropy() -> None:
    assert oracle.vflowopt_mix([0.1, 0.2], [0, log(3)], 2) == pytest.approx([0.6, 1.7])


def test_norms() -> None:
    assert oracle.norms(np.array([[3.0, -4], [0, 2]]), 1) == [7, 2]
    assert oracle.norms(np.array([[3.0, -4], [0, 2]]), 2) == [5, 2]
    states = np.array([[[1.0], [-2]], [[3], [0]]])
    assert oracle.head_norms(states, 1) == [4, 2]
    assert oracle.head_norms(states, 2) == pytest.approx([sqrt(10), 2])
