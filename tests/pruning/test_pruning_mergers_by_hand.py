"""What mergers make of worlds one can work out by hand, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from merger_worlds import DIM, Sample, cosine, run, use, view_of
from pydantic import ValidationError


# -------------------------------------------------------------------------------------------------------- cells by hand
def test_a_cell_without_a_kept_token_loses_its_tokens_and_its_mass() -> None:
    """One row of six tokens in cells of three; only the first cell keeps one."""
    sample = Sample(2, True, protect=False)
    sample.count, sample.candidates, sample.mass = 6, list(range(6)), [1.0] * 6
    sample.grid, sample.hidden = [(0, 0, 0, i) for i in range(6)], [[float(2**i)] * DIM for i in range(6)]
    sample.features = dict.fromkeys(sample.features, sample.hidden)
    sample.scores = [1.0, 5.0, 4.0, 0.5, 0.5, 0.5]
    one_kept = run([sample], [1], "cell", {"side": 3})
    assert one_kept.rows(view_of([sample]).hidden)[0, 0, 0] == pytest.approx((1 * 1 + 5 * 2 + 4 * 4) / 10)
    assert one_kept.mass[0].tolist() == [3]
    two = run([sample], [2], "cell", {"side": 3})  # tokens 1 and 2: token 0 is next to 1
    assert two.rows(view_of([sample]).hidden)[0, :, 0].tolist() == pytest.approx([(1 + 5 * 2) / 6, 4])
    assert two.mass[0].tolist() == [2, 1]
    none_merged = run([sample], [2], "cell", {"side": 1})
    assert none_merged.rows(view_of([sample]).hidden)[0, :, 0].tolist() == [2, 4]


def test_cells_end_at_images_and_segments() -> None:
    sample = Sample(2, True, protect=False)
    sample.count, sample.candidates, sample.mass = 4, list(range(4)), [1.0] * 4
    sample.grid = [(0, 0, 0, 0), (0, 1, 0, 0), (1, 0, 0, 0), (0, 0, 0, 1)]
    sample.hidden = [[float(2**i)] * DIM for i in range(4)]
    sample.scores = [9.0, 1.0, 1.0, 1.0]
    done = run([sample], [1], "cell", {"side": 9})
    assert done.kept.index.tolist() == [[0]]
    assert done.mass.tolist() == [[2]]  # token 3 alone is in its cell


# ----------------------------------------------------------------------------------------------------- clusters by hand
def test_clusters_are_the_groups_one_sees_at_the_places_of_their_best() -> None:
    """Two heaps of six recycled tokens, far apart; the best two of the dropped are in the same heap."""
    sample = Sample(1, True, protect=False)
    low = list(range(0, 24, 2))[:6]
    for i in range(sample.count):
        sample.hidden[i] = [(10.0 if i in low else -10.0) + 0.1 * math.sin(i * d + d) for d in range(DIM)]
    sample.scores = [0.0] * sample.count
    high = [25, 27, 29, 31, 33, 35]
    for place, i in enumerate([30, 28, *low, *high]):  # 30 and 28 are selected
        sample.scores[i] = 100.0 - place
    done = run([sample], [4], "cluster", {"share": "12/34"})
    assert done.kept.index.tolist() == [[0, 25, 28, 30]]
    assert done.kept.extra.tolist() == [[True, True, False, False]]
    assert done.matrix is not None
    for place, members in ((0, low), (1, high)):
        assert done.matrix[0, place].nonzero()[:, 0].tolist() == members
        assert float(done.mass[0, place]) == pytest.approx(sum(sample.mass[i] for i in members))


def test_as_many_clusters_as_sparsevlm_makes() -> None:
    """300 of 576 selected: 276 pruned, 82 recycled, 9 clusters. K counts them."""
    config = use("merger", "cluster").config
    assert config.extra(309, 576) == 9
    assert [config.extra(k, 576) for k in (1, 2, 3, 16, 40, 575, 573, 572)] == [0, 1, 1, 8, 17, 0, 0, 1]
    everything = use("merger", "cluster", {"share": 1}).config
    assert everything.extra(120, 576) == 51  # 507 unselected
    assert everything.extra(100, 576) == 50  # half of the rows
    assert everything.extra(575, 576) == 1


def test_tokens_alike_still_make_clusters_of_their_own() -> None:
    """Distances that are all zero: as many clusters as asked for, none empty, and the same again."""
    sample = Sample(1, True, protect=False)
    sample.hidden = [[1.0] * DIM for _ in range(sample.count)]
    done, again = (run([sample], [12], "cluster", {"share": 1}) for _ in range(2))
    assert done.kept.mask.sum() == 12
    assert done.kept.extra.sum() == clusters_of_all(12, 36)
    assert (done.mass[0] > 0).all()
    assert float(done.mass.sum()) == pytest.approx(sum(sample.mass))
    assert torch.equal(done.mass, again.mass)


def clusters_of_all(kept: int, current: int) -> int:
    return next(c for c in range(kept) if c == (current - kept + c) // 10 + 1)


# ------------------------------------------------------------------------------------------------- what the papers say
def test_knn_is_prumerge_but_for_the_length() -> None:
    """With scores that sum to 1, a row is (x + Σ a·x) / (1 + Σ a) over its neighbours."""
    sample = Sample(1, True, protect=False)
    sample.mass = [1.0] * sample.count
    sample.scores = [(i * 7 % 36 + 1) / 666 for i in range(36)]
    assert sum(sample.scores) == pytest.approx(1)
    done = run([sample], [9], "knn", {"neighbours": 4})
    rows, x = done.rows(view_of([sample]).hidden)[0], sample.features["encoder"]
    for place, token in enumerate(done.kept.index[0].tolist()):
        near = sorted((i for i in range(36) if i != token), key=lambda i: -cosine(x[token], x[i]))[:4]
        length = 1 + sum(sample.scores[i] for i in near)
        total = [
            sample.hidden[token][d] + sum(sample.scores[i] * sample.hidden[i][d] for i in near) for d in range(DIM)
        ]
        assert (rows[place] * length).tolist() == pytest.approx(total, abs=1e-4)


def test_soft_goes_from_the_tokens_themselves_to_the_mean_of_all() -> None:
    sample = Sample(1, True, protect=False)
    hidden = view_of([sample]).hidden
    cold = run([sample], [6], "soft", {"temperature": 0.001})
    assert torch.allclose(cold.rows(hidden), hidden[0, cold.kept.index[0]][None], atol=1e-5)
    hot = run([sample], [6], "soft", {"temperature": 1e6}).rows(hidden)[0]
    mass = torch.tensor(sample.mass)
    assert torch.allclose(hot, ((mass[:, None] * hidden[0, :36]).sum(0) / mass.sum()).expand(6, -1), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("nearest", {"norm": "sum"}),
        ("nearest", {"space": "pixels"}),
        ("cell", {"side": 0}),
        ("cell", {"side": 0.5}),
        ("cell", {"into": "all"}),
        ("nearest", {"into": "first"}),
        ("cluster", {"share": 0}),
        ("cluster", {"share": 1.5}),
        ("cluster", {"share": "half"}),
        ("knn", {"neighbours": 0}),
        ("knn", {"residual": 3}),
        ("soft", {"temperature": 0}),
        ("residual", {"space": "hidden"}),
    ],
)
def test_parameters_out_of_range_are_refused(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        use("merger", name, params)
