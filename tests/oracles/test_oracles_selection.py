"""The selection oracles on three to nine tokens, worked out by hand."""

from __future__ import annotations

from math import cos, log, radians, sin

import numpy as np
import pytest

from oracles import selection as oracle


def angles(*degrees: float) -> np.ndarray:
    return np.array([[cos(radians(a)), sin(radians(a))] for a in degrees])


def test_divprune_starts_with_the_loneliest() -> None:
    # nearest neighbours: 10, 10 and 80 degrees away -> token 2; then 0 (90 away) before 1 (80 away)
    assert oracle.divprune(angles(0, 10, 90), 3) == [2, 0, 1]
    # 180 is 90 away from all; 0 is opposite; then 90 is 90 away from both, 20 only 20 from one
    assert oracle.divprune(angles(0, 180, 90, 20), 4) == [1, 0, 2, 3]
    assert oracle.divprune(angles(0), 1) == [0]
    assert oracle.divprune(np.ones((3, 2)), 2) == [0, 1]


def test_todre_sums() -> None:
    features = np.array([[1.0, 0], [0.8, 0.6], [0, 1], [0, -1]])
    # after 0: cosines .8, 0, 0 -> 2; then sums 1.4 and -1 -> 3
    assert oracle.todre(features, 4, seed=0) == [0, 2, 3, 1]


def test_zoo_multiplies_score_and_distance() -> None:
    features = np.array([[0.0, 1], [0.6, 0.8], [1, 0], [-1, 0]])
    # scores on [0,1]: 1/4, 1/2, 1, 0; after 2: .25 * 1, .5 * .4, 0 * 2 -> 0; then .5 * .2 -> 1
    assert oracle.zoo([2, 3, 5, 1], features, 4) == [2, 0, 1, 3]
    # 1, 3/4, 1/2, 1/2, 0: after 0 and 180 degrees, 90 has .5 * 1 and 20 has .5 * .06
    assert oracle.zoo([5, 4, 3, 3, 1], angles(0, 180, 90, 20, 45), 5) == [0, 1, 2, 3, 4]


def test_greedyprune_skips_near_copies_and_refills() -> None:
    features, scores = np.array([[1.0, 0], [1, 0], [0, 1], [0.6, 0.8]]), [0.9, 0.8, 0.7, 0.6]
    assert oracle.greedyprune(scores, features, 3) == [0, 2, 3]
    assert oracle.greedyprune(scores, features, 3, tau=0.7) == [0, 2, 1]
    assert oracle.greedyprune(scores, features, 2, tau=2) == [0, 1]


def test_cover_pays_only_for_what_is_new() -> None:
    matrix = np.array([[0.5, 0.4, 0.0], [0.0, 0.4, 0.6]])
    assert oracle.cover(matrix, 3) == [1, 2, 0]  # .8; then .1 against .2
    assert oracle.cover(matrix, 2, bonus=[1, 0, 0]) == [0, 2]  # 1.5; then .4 against .6


def test_mmtok_stacks_text_and_image() -> None:
    eye, sharp = np.eye(2), 1 / log(3)
    found = oracle.mmtok_matrix(eye[:1], eye, eye, 0.5, sharp, sharp)
    expected = [[3 / 4, 1 / 4], [3 / 16, 1 / 16], [1 / 16, 3 / 16]]
    for row, hand in zip(found, expected, strict=True):
        assert row == pytest.approx(hand)
    assert oracle.mmtok(eye[1:], eye, eye, 1) == [1]
    # two words: each row is divided by 2
    assert oracle.mmtok_matrix(eye, eye, eye, 0.5, sharp, sharp)[0] == pytest.approx([3 / 8, 1 / 8])


def test_dpp_adds_the_largest_residual() -> None:
    kernel = np.array([[1.0, 0, 0], [0, 2, 1.9], [0, 1.9, 2]])
    # 2 (token 1 before its equal 2); residuals 1 and 2 - 1.9^2 / 2 = .195
    assert oracle.dpp(kernel, 3) == [1, 0, 2]
    assert oracle.dpp(np.ones((3, 3)), 3) == [0, 1, 2]


def test_dpp_grows_the_determinant_greedily() -> None:
    draw = np.random.Generator(np.random.PCG64(5)).normal(size=(6, 6))
    kernel = draw @ draw.T
    chosen: list[int] = []
    for pick in oracle.dpp(kernel, 5):
        values = {}
        for i in set(range(6)) - set(chosen):
            inside = [*chosen, i]
            values[i] = np.linalg.det(kernel[np.ix_(inside, inside)])
        assert pick == max(values, key=lambda i: values[i])
        chosen.append(pick)


def test_dpp_kernel_weighs_likeness_by_relevance() -> None:
    found = oracle.dpp_kernel(np.array([[1.0, 0], [0.6, 0.8]]), [2, 3])
    assert found[0] == pytest.approx([4, 3.6])
    assert found[1] == pytest.approx([3.6, 9])
    assert oracle.dpp_kernel(np.array([[2.0, 0], [0.6, 0.8]]))[0] == pytest.approx([1, 0.6])


IMAGE, TEXT, NORMS = [0, 1, 2, 3], [4, 5], [1.0, 5, 2, 3, 7, 8]
HIDDEN = np.array([[1.0, 0], [1, 0], [0, 1], [-1, 0], [1, 1], [0, 1]])


def test_dart_takes_what_is_unlike_the_pivots() -> None:
    assert oracle.dart_pivots(NORMS, IMAGE, TEXT, 1, 1) == [1, 5]
    # pivot 1: token 3 (cosine -1); pivot 5: token 0 (cosine 0) before 2 (cosine 1)
    assert oracle.dart(HIDDEN, NORMS, IMAGE, TEXT, 4, 1, 1) == [1, 3, 0, 2]
    assert oracle.dart(HIDDEN, NORMS, IMAGE, TEXT, 2, 1, 1) == [1, 3]
    assert oracle.dart(HIDDEN, NORMS, IMAGE, TEXT, 1, 2, 1) == [1]


def test_dart_pivots_take_turns() -> None:
    hidden = angles(0, 180, 90, 270, 45, 225, 90, 45)
    # pivots at 0, 90 and 45 degrees take 180, 270 and 225; then the first takes 90 before 45
    assert oracle.dart(hidden, [9, 1, 1, 1, 1, 1, 8, 7], range(6), [6, 7], 6, 1, 2) == [0, 1, 3, 5, 2, 4]


def test_dart_release_floors_the_share_of_a_pivot() -> None:
    assert oracle.dart_release(HIDDEN, NORMS, IMAGE, TEXT, 2, 1, 1) == [1, 3, 0]
    assert oracle.dart_release(HIDDEN, NORMS, IMAGE, TEXT, 3, 1, 1) == [1, 3, 0]
    assert oracle.dart_release(HIDDEN, NORMS, IMAGE, TEXT, 1, 1, 1) == [1]


@pytest.mark.parametrize(("budget", "kept"), [(64, 68), (32, 36), (24, 28), (12, 12), (7, 4)])
def test_dart_release_keeps_the_counts_of_the_sheet(budget: int, kept: int) -> None:
    hidden = angles(*range(104))
    found = oracle.dart_release(hidden, [float(i) for i in range(104)], range(96), range(96, 104), budget)
    assert len(set(found)) == len(found) == kept


def test_tome_pairs_the_most_similar() -> None:
    metric = np.array([[1.0, 0], [0, 1], [0.6, 0.8], [2, 0]])
    assert oracle.tome_pairs(metric, 1) == [(0, 3)]
    assert oracle.tome_pairs(metric, 9) == [(0, 3), (2, 1)]
    assert oracle.tome_pairs(metric[:1], 1) == []


def test_vispruner_peels_duplicates() -> None:
    features, scores = np.array([[1.0, 0], [1, 0], [0, 1], [-1, 0]]), [4.0, 3, 2, 1]
    # evens 0 and 2 against odds 1 and 3: 1 and 0
    assert oracle.vispruner_peel(features, scores, range(4), 3) == [1, 2, 3]
    assert oracle.vispruner_peel(features, scores, range(4), 2) == [1, 3]
    assert oracle.vispruner_peel(features, scores, range(4), 2, step=1) == [2, 3]
    # the list is ordered by attention: 3, 2, 1, 0 -> evens 3 and 1
    assert oracle.vispruner_peel(features, [1, 2, 3, 4], range(4), 3) == [0, 2, 3]
    assert oracle.vispruner(features, scores, 2) == [0, 2]


def test_lattice_spreads_over_the_grid() -> None:
    assert oracle.lattice(3, 3, 4) == [0, 8, 2, 4]
    assert oracle.lattice(1, 5, 3) == [0, 4, 2]
    assert oracle.lattice(3, 3, 2, start=4) == [4, 0]


def test_farthest_goes_on_from_a_set() -> None:
    assert oracle.farthest(angles(0, 10, 90, 100), [0], 3) == [0, 3, 1]  # then 1 - cos 10 for both 1 and 2
    assert oracle.farthest(angles(0, 180, 90, 20), [0], 3) == [0, 1, 2]
    assert oracle.farthest(angles(0, 10, 90), [], 1) == [2]


def test_hiprune_anchors_bring_their_cross() -> None:
    assert oracle.cross([0, 5], 2, 4) == [1, 4, 6]  # 0's and 5's; 3 is not 4's neighbour
    early, deep = [0.0, 0, 0, 9, 0, 0, 0, 0, 0, 8], [5.0, 4, 0, 0, 3, 0, 0, 2, 9, 0]
    # 2 rows of 5; round(.4 * 5 / 5) = 0, round(.5) = 1 anchor: 3 with 2, 4, 8; then 0
    assert oracle.hiprune(early, deep, 5, 5, alpha=0.4) == [0, 1, 4, 7, 8]
    assert oracle.hiprune(early, deep, 5, 5, alpha=0.5) == [0, 2, 3, 4, 8]
    assert oracle.hiprune(early, deep, 5, 3, alpha=1.0) == [2, 3, 4]


def test_vscan_takes_the_same_from_every_window() -> None:
    local, deep = [4.0, 3, 2, 1, 0, 0, 0, 9], [0.0, 9, 8, 7, 6, 5, 4, 3]
    # windows of 2 x 2: {0,1,4,5} and {2,3,6,7}: 0 and 7; then 1, 2
    assert oracle.vscan(local, deep, 4, 4, side=2) == [0, 1, 2, 7]
    assert oracle.vscan(local, deep, 4, 3, side=2) == [1, 2, 3]  # floor(3 / 2 / 2) = 0


def test_stride_stands_in_the_middle_of_its_steps() -> None:
    assert oracle.stride(10, 5) == [1, 3, 5, 7, 9]
    assert oracle.stride(10, 3) == [1, 5, 8]


def test_btp_prefers_early_candidates() -> None:
    scores = [1.0, 2, 3, 4, 5, 6]
    assert oracle.btp_debiased(scores, 2, 2) == [4, 5]  # candidates 5, 4, 3, 2
    assert oracle.btp_debiased(scores, 2, 2.5) == [1, 5]
    assert oracle.btp_debiased(scores, 2, 9) == [0, 1]


def test_mustdrop_needs_both_to_drop() -> None:
    rows = [[0.1, 0.4, 0.2], [0.1, 0.0, 0.2]]
    # sums .2, .4, .4 of 1; maxima .1, .4, .2
    assert oracle.mustdrop(rows, 0.5, 0.3, []) == [1]
    assert oracle.mustdrop(rows, 0.5, 0.15, []) == [1, 2]
    assert oracle.mustdrop(rows, 0.5, 0.3, [0]) == [0, 1]


def test_dart_shares_are_taken_pivot_by_pivot() -> None:
    hidden = angles(0, 180, 90, 270, 45, 225)
    # pivots 0 and 90 degrees; two more each: 180, then 225 (cosine -.71); of 90 degrees 270 and 45
    assert oracle.dart_shares(hidden, [9, 1, 8, 1, 1, 1], 6, 2) == [0, 2, 1, 5, 3, 4]
    assert oracle.dart_shares(hidden, [9, 1, 8, 1, 1, 1], 5, 2) == [0, 2, 1, 5, 3]
    assert oracle.dart_shares(hidden, [9, 1, 8, 1, 1, 1], 3, 1, angles(90)) == [0, 1, 3]
