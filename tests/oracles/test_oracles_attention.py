"""The attention oracles on maps of two to five tokens, worked out by hand."""

from __future__ import annotations

from math import e, log, sqrt

import numpy as np
import pytest

from oracles import attention as oracle

LN2, LN3 = log(2), log(3)
KEYS = np.array([[[0.0], [LN2], [LN3]]])  # softmax weights 1 : 2 : 3 under a query of 1


def last_row(*rows: list[float]) -> np.ndarray:
    """A map of which only the last query counts; one row per head."""
    found = np.zeros((len(rows), len(rows[0]), len(rows[0])))
    found[:, -1] = rows
    return found


def cls_row(*rows: list[float]) -> np.ndarray:
    """A map of which only the first query counts."""
    found = np.zeros((len(rows), len(rows[0]), len(rows[0])))
    found[:, 0] = rows
    return found


def test_fastv_is_the_last_row_averaged_over_heads() -> None:
    seen = last_row([0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.1, 0.2])
    assert oracle.fastv(seen, [1, 2]) == pytest.approx([0.3, 0.2])
    assert oracle.fastv(seen, [1, 2], last=0) == [0, 0]


def test_pyramid_drop_softmaxes_the_causal_prefix() -> None:
    ones = np.ones((1, 3, 1))
    assert oracle.pyramid_drop(ones, KEYS, [0, 1]) == pytest.approx([1 / 6, 2 / 6])
    assert oracle.pyramid_drop(ones, KEYS, [0, 1], last=1) == pytest.approx([1 / 3, 2 / 3])


def test_pyramid_drop_shares_key_heads_and_scales_by_width() -> None:
    queries = np.array([[[0.0]] * 3, [[1.0]] * 3])  # a uniform head and the one above, both on one key head
    assert oracle.pyramid_drop(queries, KEYS, [0, 2]) == pytest.approx([(1 / 3 + 1 / 6) / 2, (1 / 3 + 3 / 6) / 2])
    wide = np.zeros((1, 2, 4))
    wide[0, 1, 0] = LN2  # 2 ln 2 / sqrt(4) = ln 2
    assert oracle.pyramid_drop(np.full((1, 2, 4), 2.0), wide, [0, 1]) == pytest.approx([1 / 3, 2 / 3])


def test_sparsevlm_raters_are_above_the_mean_share() -> None:
    visual, text = np.array([[1.0], [0.0]]), np.array([[0.0], [LN3]])
    # token 0 gives (1/4, 3/4), token 1 gives (1/2, 1/2): shares 3/8 and 5/8
    assert oracle.sparsevlm_raters(visual, text) == [1]
    assert oracle.sparsevlm_raters(visual, np.zeros((2, 1))) == [0, 1]


def test_sparsevlm_averages_raters_and_heads() -> None:
    seen = np.zeros((2, 4, 4))
    seen[0, 2, :2], seen[0, 3, :2] = (0.1, 0.4), (0.3, 0.2)
    seen[1, 2, :2], seen[1, 3, :2] = (0.5, 0.0), (0.1, 0.2)
    assert oracle.sparsevlm(seen, [0, 1], [2, 3]) == pytest.approx([0.25, 0.2])
    assert oracle.sparsevlm(seen, [0, 1], [3]) == pytest.approx([0.2, 0.2])


def test_sparsevlm_v2_uses_the_heads_that_look_at_the_image() -> None:
    seen = last_row([0.8, 0.1, 0.1], [0.0, 0.1, 0.9], [0.1, 0.4, 0.5], [0.2, 0.0, 0.8])
    assert oracle.sparsevlm_heads(seen, [0, 1], [2]) == [0, 2]
    assert oracle.sparsevlm_v2(seen, [0, 1], [2]) == pytest.approx([0.45, 0.25])


def test_sparsevlm_v2_divides_by_gravity_first() -> None:
    seen = last_row([0.8, 0.1, 0.1], [0.2, 0.2, 0.6])
    gravity = last_row([0.8, 0.1, 0.1], [0.1, 0.05, 0.1])
    # quotients: head 0 (1, 1), head 1 (2, 4): now head 1 wins
    assert oracle.sparsevlm_v2(seen, [0, 1], [2]) == pytest.approx([0.8, 0.1])
    assert oracle.sparsevlm_v2(seen, [0, 1], [2], gravity) == pytest.approx([2, 4])


def test_adaptinfer_takes_two_hops_through_text() -> None:
    seen = np.zeros((1, 4, 4))
    seen[0, 2], seen[0, 3] = (0.5, 0.2, 0.3, 0.0), (0.1, 0.3, 0.2, 0.4)
    # B = [[.3, .2], [.2, .4]], w = (.5, .6)
    assert oracle.adaptinfer(seen, [0, 1], [2, 3]) == pytest.approx([0.25 + 0.06, 0.10 + 0.18])
    assert oracle.adaptinfer(np.repeat(seen, 2, axis=0), [0, 1], [2, 3]) == pytest.approx([0.62, 0.56])


def test_feather_softmaxes_image_keys_only() -> None:
    queries = np.array([[[0.0], [0], [1]]])
    assert oracle.feather(queries, KEYS, [1, 2]) == pytest.approx([2 / 5, 3 / 5])
    assert oracle.feather(queries, KEYS, [1, 2], last=0) == pytest.approx([1 / 2, 1 / 2])


def test_aim_walks_a_sharpened_causal_map() -> None:
    logits = np.array([[[5.0, 99.0], [0.0, 0.1 * LN3]]])  # M = [[1, 0], [1/4, 3/4]]
    assert oracle.aim(logits, [0, 1], hops=2) == pytest.approx([0.71875, 0.28125])
    assert oracle.aim(logits, [1]) == pytest.approx([0.5 * 0.75**5])
    other = np.array([[[5.0, 99.0], [0.1 * LN3, 0.0]]])  # M = [[1, 0], [3/4, 1/4]]
    both = np.concatenate([logits, other])
    assert oracle.aim(both, [1], hops=1) == pytest.approx([sqrt((0.375**2 + 0.125**2) / 2)])


def test_ptp_adds_two_scaled_scores() -> None:
    seen = np.zeros((2, 4, 4))
    seen[0, 2, :2], seen[0, 3, :2] = (0.2, 0.6), (0.4, 0.0)
    seen[1, 2, :2], seen[1, 3, :2] = (0.2, 0.2), (0.2, 0.0)
    assert oracle.ptp_instruction(seen, [0, 1], [2, 3]) == pytest.approx([0.3, 0.4])
    assert oracle.ptp([1, 3, 2], [0.2, 0.2, 0.6]) == pytest.approx([0, 0.5, 0.75])
    assert oracle.ptp([1, 3, 2], [0.2, 0.2, 0.6], a=0.25) == pytest.approx([0, 0.75, 0.625])
    assert oracle.ptp([1, 1], [0.2, 0.6]) == pytest.approx([0, 0.5])
    assert oracle.ptp_regions([[1, 3], [6]]) == pytest.approx([0.25, 0.75])


def test_catp_adds_the_rise_of_attention_to_the_likeness_to_the_query() -> None:
    now, before = last_row([0.5, 0.2, 0.0, 0.3]), last_row([0.3, 0.4, 0.0, 0.3])
    hidden = np.array([[1.0, 0], [0, 1], [0, 2], [0, 4]])
    assert oracle.catp_stage_2(now, before, hidden, [0, 1], [2, 3]) == pytest.approx([0.2, 0.6])


def test_transprune_weighs_turn_and_growth() -> None:
    x, y = np.array([[1.0, 0], [1, 0]]), np.array([[2.0, 0], [0, 3]])
    assert oracle.transition(x, y) == pytest.approx([2 / (1 + e), 3 * e / (1 + e)])
    assert oracle.transition(2 * x, y) == pytest.approx([1 / (1 + e), 1.5 * e / (1 + e)])
    assert oracle.transition(np.array([[0.0, 0], [1, 0]]), y)[0] == 0
    assert oracle.transprune_ttv([(x, y), (x, x)], [1]) == pytest.approx([3 * e / (1 + e) + 0.5])
    assert oracle.transprune([1, 3], [2, 2]) == pytest.approx([0.75, 1.25])


def test_cls_rows() -> None:
    first, second = cls_row([0.2, 0.5, 0.3], [0.4, 0.1, 0.5]), cls_row([0.0, 0.2, 0.8], [0.0, 0.4, 0.6])
    assert oracle.fastervlm(first) == pytest.approx([0.3, 0.4])
    assert oracle.vtc_cls([first, second]) == pytest.approx([0.6, 1.1])
    assert oracle.hired(first) == pytest.approx([0.6, 0.8])


def test_hired_counts_in_true_quadrants() -> None:
    overview = cls_row([0.0] * 17)
    for cell in (0, 1, 4, 5):  # the upper left quadrant of 4 x 4
        overview[0, 0, 1 + cell] = 0.25
    assert oracle.hired_tiles(overview, (4, 4), (2, 2), alpha=0.75) == [4, 0, 0, 0]
    assert oracle.hired_tiles(overview, (4, 4), (2, 2), alpha=0.75, bands=True) == [2, 2, 0, 0]
    # half of the tokens: the four above and, all others being 0, cells 2, 3, 6, 7
    assert oracle.hired_tiles(overview, (4, 4), (2, 2)) == [4, 4, 0, 0]


def test_hired_budgets_lose_no_token() -> None:
    assert oracle.hired_budgets(100, 64, [3, 1, 0, 0]) == (50, [38, 12, 0, 0])
    assert oracle.hired_budgets(20, 64, [5, 2]) == (10, [7, 3])  # 7.14 and 2.86
    assert oracle.hired_budgets(200, 64, [1, 1]) == (64, [68, 68])
    assert oracle.hired_budgets(10, 64, [0, 0]) == (5, [3, 2])


def test_column_means_leave_the_cls_column_out() -> None:
    seen = np.array([[[0.2, 0.3, 0.5], [0.1, 0.6, 0.3], [0.4, 0.5, 0.1]]])
    assert oracle.hiprune(seen, has_cls=True) == pytest.approx([1.4 / 3, 0.9 / 3])
    assert oracle.hiprune(seen, has_cls=False) == pytest.approx([0.7 / 3, 1.4 / 3, 0.9 / 3])
    assert oracle.fopru(seen, has_cls=True) == pytest.approx([1.4 / 3, 0.9 / 3])


def test_fopru_keeps_whole_rows() -> None:
    scores = [1.0, 2, 3, 3, 3, 1]  # row means 2 and 7/3
    assert oracle.fopru_row(scores, 3, 3) == [3, 4, 5]
    assert oracle.fopru_row(scores, 3, 4) == [0, 3, 4, 5]
    assert oracle.fopru_row(scores, 3, 2) == [3, 4]


def test_vflowopt_asks_only_the_tokens_that_are_looked_at() -> None:
    seen = np.array([[[0.2, 0.6, 0.2], [0.1, 0.7, 0.2], [0.3, 0.5, 0.2]]])  # received .2, .6, .2; mean 1/3
    assert oracle.vflowopt(seen, has_cls=False, t=1) == pytest.approx([0.1, 0.7, 0.2])
    assert oracle.vflowopt(seen, has_cls=False, t=0.5) == pytest.approx([0.2, 0.6, 0.2])
    assert oracle.vflowopt(seen, has_cls=False, t=100) == pytest.approx([0.1, 0.7, 0.2])
    # the gate is strict: nobody is above a mean that all share, so the first of the largest speaks
    assert oracle.vflowopt(np.array([[[0.75, 0.25], [0.25, 0.75]]]), has_cls=False, t=1) == [0.75, 0.25]
    # with token 0 as CLS: received .6, .35 -> only token 1 passes, its row without the CLS column
    seen[0, 2] = (0.3, 0.5, 0.5)
    assert oracle.vflowopt(seen, has_cls=True, t=1) == pytest.approx([0.7, 0.2])


def test_prumerge_is_one_head_over_all_keys() -> None:
    assert oracle.prumerge(np.ones((3, 1)), KEYS[0]) == pytest.approx([2 / 6, 3 / 6])
    wide = np.zeros((2, 4))
    wide[1, 0] = LN2
    assert oracle.prumerge(np.full((2, 4), 2.0), wide) == pytest.approx([2 / 3])


def test_zero_tprune_walks_and_drops_flat_heads() -> None:
    seen = np.array([[[0.5, 0.5], [0.25, 0.75]], [[1.0, 0.0], [0.0, 1.0]]])  # the second head has variance 0
    assert oracle.zero_tprune(seen, 1, has_cls=False) == pytest.approx([0.75, 1.25])
    assert oracle.zero_tprune(seen, 2, has_cls=False) == pytest.approx([0.6875, 1.3125])
    both = oracle.zero_tprune(seen, 1, has_cls=False, band=(0, 1))
    assert both == pytest.approx([sqrt((0.75**2 + 1) / 2), sqrt((1.25**2 + 1) / 2)])
    # every head out of the band: all count
    assert oracle.zero_tprune(seen, 1, has_cls=False, band=(2, 3)) == pytest.approx(both)


def test_zero_tprune_starts_cls_heavier() -> None:
    seen = np.zeros((1, 5, 5))
    seen[0, :, 1] = 1.0  # everybody looks at token 1
    assert oracle.zero_tprune(seen, 1, has_cls=True, band=(0, 9)) == pytest.approx([5, 0, 0, 0])
    # start: CLS 2, others 1, scaled to mean 1 = 5/6 each and 10/6
    assert oracle.zero_tprune(np.eye(5)[None], 1, has_cls=True) == pytest.approx([5 / 6] * 4)
