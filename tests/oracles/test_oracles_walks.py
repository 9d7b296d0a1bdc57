"""The walk oracles on maps of two to four tokens, worked out by hand."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest

from oracles import attention, walks

A = np.array([[[0.5, 0.5, 0.0], [0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], [[1.0, 0, 0], [0.6, 0.4, 0], [0.3, 0.3, 0.4]]])


@pytest.mark.parametrize(
    ("how", "hand"),
    [
        ("mean", (0.575, 0.3)),  # head 0: (.35, .4), head 1: (.8, .2)
        ("sum", (1.15, 0.6)),
        ("max", (0.8, 0.4)),
        ("rms", (sqrt((0.35**2 + 0.64) / 2), sqrt((0.16 + 0.04) / 2))),
        ("top_half", (0.8, 0.2)),  # masses .75 and 1
    ],
)
def test_one_hop_puts_heads_together_after_the_queries(how: str, hand: tuple[float, float]) -> None:
    assert walks.one_hop(A, [0, 1], [0, 1], how) == pytest.approx(hand)


def test_top_half_takes_the_heads_it_is_told() -> None:
    assert walks.heads_together([[1.0, 0], [0, 1], [0, 3]], "top_half", [0, 1]) == [0.5, 0.5]
    assert walks.heads_together([[1.0, 0], [0, 1], [0, 3]], "top_half") == [0, 3]  # floor(3 / 2) = 1 head


def test_most_seen_by_text_is_a_maximum_over_words() -> None:
    # head means: word 1 gives (.4, .35), word 2 gives (.2, .2) and (.5, .5, 1.2) / 2 over all keys
    assert walks.most_seen_by_text(A, [1, 2], [0, 1, 2]) == pytest.approx([0.4, 0.35, 0.6])


def test_several_hops() -> None:
    one = walks.several_hops(A, 1, [0, 1, 2])
    assert one[1] == pytest.approx([1.9 / 3, 0.7 / 3, 0.4 / 3])
    two = walks.several_hops(A, 2, [0, 1, 2])
    assert two[1] == pytest.approx([(1.9 + 0.7 * 0.6 + 0.4 * 0.3) / 3, (0.7 * 0.4 + 0.4 * 0.3) / 3, 0.16 / 3])
    assert walks.several_hops(A, 1, [1, 2])[0] == pytest.approx([0.2, 0.65])  # 0 is no node


def test_mean_query_is_not_the_column_mean() -> None:
    q, k = np.array([[[0.0], [2 * log(3)]]]), np.array([[[0.0], [1.0]]])
    assert walks.mean_query(q, k) == pytest.approx([1 / 4, 3 / 4])  # the mean query is log 3
    columns = [(1 / 2 + 1 / 10) / 2, (1 / 2 + 9 / 10) / 2]
    assert columns != pytest.approx(walks.mean_query(q, k))
    grouped = walks.mean_query(np.concatenate([q, q]), k, heads="sum")
    assert grouped == pytest.approx([1 / 2, 3 / 2])


def test_tempered_is_the_softmax_at_a_temperature() -> None:
    assert walks.tempered([1 / 4, 3 / 4], 0.5) == pytest.approx([0.1, 0.9])
    assert walks.tempered([0.0, 1 / 5, 4 / 5], 2) == pytest.approx([0, 1 / 3, 2 / 3])


def test_layers_together() -> None:
    rows: list[list[float]] = [[1, 4], [3, 2], [2, 6]]
    assert walks.layers_together(rows, "sum") == [6, 12]
    assert walks.layers_together(rows, "ema") == [2, 4.5]
    assert walks.layers_together(rows, "difference") == [0, 4]


def test_flowcut_multiplies_relevance_and_size() -> None:
    seen = np.array([[[0.2, 0.2, 0.6], [0, 0, 1], [0, 0, 1]]])
    values = np.array([[[1.0, 0], [0, 2], [log(2), -1]]])
    # rel (1/4, 3/4); sem: e^1, e^0, e^log 2 -> (1/3, 2/3); sizes 2 and log 2 + 1
    hand = [(1 / 4 + 1 / 3) * 2, (3 / 4 + 2 / 3) * (log(2) + 1)]
    assert walks.flowcut(seen, values) == pytest.approx(hand)


def test_identities_of_the_factoring() -> None:
    draw = np.random.Generator(np.random.PCG64(3))
    maps = draw.dirichlet(np.ones(6), size=(4, 6))
    visual = [1, 2, 3, 4]
    assert walks.one_hop(maps, [5], visual) == pytest.approx(attention.fastv(maps, visual))
    assert walks.one_hop(maps, [0], range(1, 6)) == pytest.approx(attention.fastervlm(maps))
    assert walks.one_hop(maps, range(6), range(1, 6)) == pytest.approx(attention.hiprune(maps, True))
    assert walks.one_hop(maps, [0, 5], visual) == pytest.approx(attention.sparsevlm(maps, visual, [0, 5]))
    pagerank = walks.heads_together(walks.several_hops(maps, 1, range(6)))
    assert pagerank == pytest.approx(walks.one_hop(maps, range(6), range(6)))
