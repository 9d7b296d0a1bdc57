"""The merging oracles on three to eight tokens, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from oracles import merging as oracle


def same(found: np.ndarray, hand: list[list[float]]) -> bool:
    return found.shape == np.shape(hand) and np.allclose(found, hand, rtol=0, atol=1e-12)


def test_fold_multiplies() -> None:
    assert same(
        oracle.fold(np.array([[0.5, 0.5, 0], [0, 0, 2]]), np.array([[1.0, 0], [3, 2], [1, 1]])), [[2, 1], [2, 2]]
    )


def test_nearest_mean() -> None:
    metric = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [3, 1]])
    assert same(oracle.nearest_mean(metric, [0, 2]), [[1 / 3, 1 / 3, 0, 1 / 3], [0, 0, 1, 0]])


def test_a_kept_token_joins_itself_though_another_is_equal() -> None:
    assert same(oracle.nearest_mean(np.ones((3, 2)), [0, 1]), [[0.5, 0, 0.5], [0, 1, 0]])
    assert oracle.dpc_groups(np.ones((3, 2)), [0, 1]) == [[0, 2], [1]]


def test_visionzip_adds_the_mean_to_the_target() -> None:
    assert oracle.visionzip_targets([1, 2, 3, 4, 5], 2) == [1, 3]
    assert oracle.visionzip_targets([1, 2, 3, 4, 5], 3) == [1, 2, 3]
    metric = np.array([[1.0, 0], [1, 0], [0, 1], [1, 0], [0, 1]])
    targets, w = oracle.visionzip(metric, [0, 1, 2, 3], 2)
    assert targets == [0, 2]
    assert same(w, [[1, 0.5, 0, 0.5, 0], [0, 0, 1, 0, 0]])
    assert same(
        oracle.visionzip(metric, [0, 1, 2, 3], 2, release=False)[1], [[1 / 3, 1 / 3, 0, 1 / 3, 0], [0, 0, 1, 0, 0]]
    )


def test_prumerge_adds_neighbours_and_a_residual() -> None:
    keys, scores = np.array([[1.0, 0], [0.6, 0.8], [0, 1]]), [0.5, 0.3, 0.2]
    assert same(oracle.prumerge(keys, scores, [0, 2], k=1), [[1, 0.3, 0], [0, 0.3, 1], [0, 0.3, 0]])
    assert same(oracle.prumerge(keys, scores, [0, 2]), [[1, 0.3, 0.2], [0.5, 0.3, 1], [0, 0.3, 0]])
    assert same(oracle.prumerge(keys, scores, [0, 2], k=1, residual=False), [[1, 0.3, 0], [0, 0.3, 1]])


def test_dpc_finds_dense_and_distant_centres() -> None:
    x = np.array([[0.0], [1], [10], [11.5]])
    # densities e^-.5 twice (token 0 is denser by index), e^-1.125 twice; deltas 11.5, 1, 9, 1.5
    assert oracle.dpc_centres(x, 2, 2) == [0, 2]
    assert oracle.dpc_centres(x, 1, 2) == [0]
    assert oracle.dpc_centres(x, 3, 2) == [0, 1, 2]  # 1 e^-.5 = .607 against 1.5 e^-1.125 = .487
    assert oracle.dpc_groups(x, [0, 2]) == [[0, 1], [2, 3]]
    assert oracle.dpc_groups(np.array([[0.0], [2], [1]]), [0, 1]) == [[0, 2], [1]]


def test_dpc_divides_distance_by_root_of_width() -> None:
    x = np.zeros((3, 4))
    x[:, 0] = (0, 1, 3)
    # width 1: token 1 has 1 e^-.5 = .607, token 2 has 2 e^-2 = .271
    assert oracle.dpc_centres(x[:, :1], 2, 2) == [0, 1]
    # width 4 halves distances: .5 e^-.125 = .441 against 1 e^-.5 = .607
    assert oracle.dpc_centres(x, 2, 2) == [0, 2]


def test_sparsevlm_recycles_the_best_of_the_pruned() -> None:
    x, scores = np.array([[0.0], [1], [10], [11.5], [5]]), [0.4, 0.3, 0.2, 0.1, 0.9]
    assert same(oracle.sparsevlm(x, scores, [4], share=1, per=4), [[0.5, 0.5, 0, 0, 0], [0, 0, 0.5, 0.5, 0]])
    assert same(oracle.sparsevlm(x, scores, [4], share=0.5), [[0.5, 0.5, 0, 0, 0]])
    assert oracle.sparsevlm(x, scores, [3, 4]).shape == (0, 5)  # floor(.3 * 3) = 0


def test_cell_keeps_the_place_of_its_best_member() -> None:
    scores = [9.0, 1, 0, 0, 3, 0, 0, 0]  # a grid of 2 x 4, blocks of 2 x 2
    places, w = oracle.cell(scores, 4, [0], 2)
    assert places == [4, 2]
    assert same(w, [[0, 0.25, 0, 0, 0.75, 0, 0, 0], [0, 0, 0.25, 0.25, 0, 0, 0.25, 0.25]])
    places, w = oracle.cell(scores, 4, [0, 1, 4, 5], 2)
    assert places == [2]
    places, w = oracle.cell([1.0] * 6, 2, [], 2)  # a grid of 3 x 2: one whole block and half of one
    assert places == [0, 4]
    assert same(w, [[0.25] * 4 + [0, 0], [0] * 4 + [0.5] * 2])


def test_tome_weighs_by_mass() -> None:
    survivors, w, sizes = oracle.tome([1, 2, 1, 3], [(0, 3)])
    assert (survivors, sizes) == ([1, 2, 3], [2, 1, 4])
    assert same(w, [[0, 1, 0, 0], [0, 0, 1, 0], [0.25, 0, 0, 0.75]])
    survivors, w, sizes = oracle.tome([1, 2, 1, 1], [(0, 3), (2, 3)])
    assert (survivors, sizes) == ([1, 3], [2, 3])
    assert w[1] == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])


def test_soft_rows_are_softmaxed_cosines() -> None:
    metric = np.array([[1.0, 0], [0, 2], [3, 0]])
    e = np.exp(1 / 0.5)
    assert same(oracle.soft(metric, [1], 0.5), [[1 / (e + 2), e / (e + 2), 1 / (e + 2)]])


def test_residual_is_the_dropped_mean() -> None:
    assert same(oracle.residual([1, 2, 3, 4], [1]), [[1 / 8, 0, 3 / 8, 4 / 8]])
    assert same(oracle.residual([0, 0, 0], [1]), [[1 / 2, 0, 1 / 2]])
    assert same(oracle.rows_to_one(np.array([[1.0, 3]])), [[0.25, 0.75]])


def test_cell_kept_joins_the_nearest_of_its_block() -> None:
    # a grid of 2 x 4, blocks of 2 x 2; kept 0 and 5 in the first block, none in the second
    w = oracle.cell_kept([1, 2, 3, 4, 5, 6, 7, 8], 4, [0, 5], 2)
    assert same(w, [[1 / 8, 2 / 8, 0, 0, 5 / 8, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0]])
