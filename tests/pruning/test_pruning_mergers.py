"""Mergers against plain loops over their definitions, one sample at a time, in double precision.

The loops see lists; the engine sees a batch of samples of different length whose padding is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from merger_worlds import DIM, Sample, cosine, run, view_of

from autoprune.pruning.stage import Reduction

SIDE = 2
Weights = dict[int, dict[int, float]]  # token at which a row stands -> its members and what each weighs before mass


def most(rows: Sequence[int], worth: Callable[[int], float]) -> int:
    """The row worth most, of equals the first."""
    return max(rows, key=lambda r: (worth(r), -r))


def weigh_by_score(sample: Sample, rows: Weights) -> Weights:
    if sample.scores is None:
        return {row: dict.fromkeys(members, 1.0) for row, members in rows.items()}
    weighed: Weights = {}
    for row, members in rows.items():
        best = max(sample.weight(i) for i in members)
        weighed[row] = {i: max(sample.weight(i) / best, 1e-6) if best else 1.0 for i in members}
    return weighed


def plain_nearest(sample: Sample, selected: list[int], extra: int, space: str = "projected") -> Weights:
    x = sample.features[space]
    rows: Weights = {i: {i: 1.0} for i in selected}
    open_rows = [i for i in selected if i in sample.candidates]
    for i in sample.candidates:
        if i not in selected and open_rows:
            rows[most(open_rows, lambda r: cosine(x[i], x[r]))][i] = 1.0  # noqa: B023
    return rows


def plain_mean(sample: Sample, selected: list[int], extra: int) -> Weights:
    rows = plain_nearest(sample, selected, extra)
    return {row: {i: 1 / sample.mass[i] for i in members} for row, members in rows.items()}


def plain_cell(sample: Sample, selected: list[int], extra: int, side: int = SIDE) -> Weights:
    def cell(i: int) -> tuple[int, ...]:
        image, segment, row, column = sample.grid[i]
        return image, segment, row // side, column // side

    def near(i: int, r: int) -> float:
        (*_, a, b), (*_, c, d) = sample.grid[i], sample.grid[r]
        return -math.hypot(a - c, b - d)

    rows: Weights = {i: {i: 1.0} for i in selected}
    for i in sample.candidates:
        open_rows = [r for r in selected if r in sample.candidates and cell(r) == cell(i)]
        if i not in selected and open_rows:
            rows[most(open_rows, lambda r: near(i, r))][i] = 1.0  # noqa: B023
    return weigh_by_score(sample, rows)


def plain_target_mean(sample: Sample, selected: list[int], extra: int) -> Weights:
    """The token itself and the mean of those that join it, half and half."""
    rows = {row: set(members) - {row} for row, members in plain_nearest(sample, selected, extra).items()}
    return {
        row: {row: 1 / sample.mass[row], **{i: 1 / len(others) / sample.mass[i] for i in others}}
        for row, others in rows.items()
    }


def plain_own_cells(sample: Sample, selected: list[int], extra: int, side: float = 1.5) -> Weights:
    """The best of each cell by score stand for their cells, best cells first; then the best of what is left, alone."""
    rest = [i for i in sample.candidates if i not in selected]
    order = rest if sample.scores is None else sample.order(rest)
    cells: dict[tuple[int, ...], list[int]] = {}
    for i in order:
        image, segment, row, column = sample.grid[i]
        cells.setdefault((image, segment, math.floor(row / side), math.floor(column / side)), []).append(i)
    leads = [members[0] for members in cells.values()]  # in the order of their best
    alone = [i for i in order if i not in leads][: max(extra - len(leads), 0)]
    made: Weights = {i: {i: 1.0} for i in (*selected, *alone)}
    for members in list(cells.values())[:extra]:
        made[members[0]] = {i: 1.0 for i in members if i not in alone}
    return weigh_by_score(sample, made)


def plain_residual(sample: Sample, selected: list[int], extra: int) -> Weights:
    rows: Weights = {i: {i: 1.0} for i in selected}
    if extra:
        rest = [i for i in sample.candidates if i not in selected]
        anchor = rest[0] if sample.scores is None else sample.order(rest)[0]
        rows |= weigh_by_score(sample, {anchor: dict.fromkeys(rest, 1.0)})
    return rows


def plain_knn(sample: Sample, selected: list[int], extra: int, neighbours: int = 3) -> Weights:
    x = sample.features["encoder"]
    weight = {i: 1.0 if sample.scores is None else sample.weight(i) for i in sample.candidates}
    total = sum(weight.values())
    rows: Weights = {i: {i: 1.0} for i in selected}
    for r in selected:
        if r in sample.candidates:
            others = [i for i in sample.candidates if i != r]
            for i in sorted(others, key=lambda i: -cosine(x[r], x[i]))[:neighbours]:
                rows[r][i] = weight[i] / total
    return rows


def plain_knn_residual(sample: Sample, selected: list[int], extra: int) -> Weights:
    return plain_residual(sample, selected, extra) | plain_knn(sample, selected, extra)


def plain_soft(sample: Sample, selected: list[int], extra: int, temperature: float = 0.2) -> Weights:
    x = sample.features["projected"]
    rows: Weights = {}
    for r in selected:
        if r in sample.candidates:
            rows[r] = {i: math.exp(cosine(x[r], x[i]) / temperature) for i in sample.candidates}
        else:
            rows[r] = {r: 1.0}
    return rows


def plain_cluster(sample: Sample, selected: list[int], extra: int, share: Fraction = Fraction(4, 5)) -> Weights:
    rows: Weights = {i: {i: 1.0} for i in selected}
    rest = [i for i in sample.candidates if i not in selected]
    spread = sorted(rest, key=lambda i: -(i * 40503 % 65536))
    order = spread if sample.scores is None else sample.order(rest)
    chosen = sorted(order[: math.floor(share * len(rest))])
    if not extra:
        return rows
    x = sample.hidden
    gap = {(i, j): math.dist(x[i], x[j]) / math.sqrt(DIM) for i in chosen for j in chosen}
    density = {i: math.exp(-sum(sorted(gap[i, j] ** 2 for j in chosen)[:extra]) / extra) for i in chosen}
    peak = {}
    for i in chosen:
        denser = [j for j in chosen if (density[j], -j) > (density[i], -i)]
        peak[i] = density[i] * min((gap[i, j] for j in denser), default=max(gap.values()))
    centres = sorted(sorted(chosen, key=lambda i: (-peak[i], i))[:extra])
    groups: dict[int, list[int]] = {c: [c] for c in centres}
    for i in chosen:
        if i not in centres:
            groups[min(centres, key=lambda c: (gap[i, c], c))].append(i)
    for members in groups.values():
        rows[min(members, key=order.index)] = dict.fromkeys(members, 1.0)
    return rows


def clusters(kept: int, current: int) -> int:
    """The smallest number that agrees with itself, by trying."""
    for c in range(kept + 1):
        recycled = math.floor(Fraction(4, 5) * (current - kept + c))
        if c == (recycled // 10 + 1 if recycled else 0):
            return min(c, kept // 2)
    return kept // 2


def none(kept: int, current: int) -> int:
    return 0


def one(kept: int, current: int) -> int:
    return 1


def cells(kept: int, current: int) -> int:
    """One for 1.5 x 1.5 tokens."""
    return min(math.floor(current / 2.25), kept)


CASES: dict[str, tuple[str, dict[str, Any], Callable[..., Weights], Callable[[int, int], int]]] = {
    "nearest": ("nearest", {}, plain_nearest, none),
    "nearest-mean": ("nearest", {"norm": "mean"}, plain_mean, none),
    "cell": ("cell", {"side": SIDE}, plain_cell, none),
    "nearest-target-mean": ("nearest", {"norm": "target_mean"}, plain_target_mean, none),
    "cell-own": ("cell", {"side": "3/2", "into": "own"}, plain_own_cells, cells),
    "residual": ("residual", {}, plain_residual, one),
    "knn": ("knn", {"neighbours": 3}, plain_knn, none),
    "knn-residual": ("knn", {"neighbours": 3, "residual": True}, plain_knn_residual, one),
    "soft": ("soft", {"temperature": "1/5"}, plain_soft, none),
    "cluster": ("cluster", {"share": "4/5"}, plain_cluster, clusters),
}
KEEPS = [[8, 12, 6], [3, 2, 4], [22, 35, 10], [0, 5, 11], [2, 36, 3], [14, 20, 8]]


def check(sample: Sample, done: Reduction, b: int, k: int, plain: Callable[..., Weights], extra: int) -> None:
    """Anchors, rows and mass of one sample of a batch against the loop, given what the selector chose."""
    index, is_extra = done.kept.index[b, :k].tolist(), done.kept.extra[b, :k].tolist()
    selected = [i for i, e in zip(index, is_extra, strict=True) if not e]
    assert sum(is_extra) == extra
    if sample.scores is not None:
        room = k - len(sample.protected) - extra
        assert selected == sorted([*sample.protected, *sample.order(sample.candidates)[:room]])
    rows = plain(sample, selected, extra)
    assert index == sorted(rows)
    matrix = {}
    for row, members in rows.items():
        weighed = {i: w * sample.mass[i] for i, w in members.items()}
        matrix[row] = {i: w / sum(weighed.values()) for i, w in weighed.items()}
    found = done.rows(view_of([sample]).hidden.expand(len(done.mass), -1, -1))[b]
    for place, row in enumerate(sorted(rows)):
        value = [sum(w * sample.hidden[i][d] for i, w in matrix[row].items()) for d in range(DIM)]
        assert found[place].tolist() == pytest.approx(value, abs=2e-5)
        mass = 0.0
        for i, w in matrix[row].items():
            everywhere = sum(other.get(i, 0.0) for other in matrix.values())
            mass += sample.mass[i] * w / everywhere if w else 0.0
        assert float(done.mass[b, place]) == pytest.approx(mass, abs=2e-4)
    assert (done.mass[b, k:] == 0).all()


@pytest.mark.parametrize("scored", [True, False], ids=["scored", "unscored"])
@pytest.mark.parametrize("case", CASES)
def test_a_merger_is_what_its_definition_says(case: str, scored: bool) -> None:
    name, params, plain, extra = CASES[case]
    samples = [Sample(n, scored, protect=True) for n in range(3)]
    for keep in KEEPS:
        done = run(samples, keep, name, params)
        for b, (sample, k) in enumerate(zip(samples, keep, strict=True)):
            rows = 0
            if len(sample.protected) < k < sample.count:
                rows = min(extra(k, sample.count), k - len(sample.protected))
            if k == sample.count:
                check(sample, done, b, k, lambda s, selected, e: {i: {i: 1.0} for i in selected}, 0)
            elif k:
                check(sample, done, b, k, plain, rows)


@pytest.mark.parametrize("case", CASES)
def test_one_token_or_all_but_one(case: str) -> None:
    name, params, plain, extra = CASES[case]
    samples = [Sample(n, True, protect=False) for n in range(3)]
    for keep in ([1, 1, 1], [s.count - 1 for s in samples]):
        done = run(samples, keep, name, params)
        for b, (sample, k) in enumerate(zip(samples, keep, strict=True)):
            check(sample, done, b, k, plain, min(extra(k, sample.count), k))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("-inf")])
@pytest.mark.parametrize("case", ["cell", "residual", "knn", "knn-residual"])
def test_scores_that_say_nothing_are_all_alike(case: str, bad: float) -> None:
    """A mean by mass: nothing but zero, negative or missing scores."""
    name, params, _, _ = CASES[case]
    sample, plain = Sample(1, True, protect=False), Sample(1, False, protect=False)
    sample.scores = [bad] * sample.count
    plain.scores = [1.0] * plain.count
    found, expected = run([sample], [9], name, params), run([plain], [9], name, params)
    assert torch.equal(found.kept.index, expected.kept.index)
    assert torch.allclose(found.rows(view_of([sample]).hidden), expected.rows(view_of([sample]).hidden), atol=1e-6)


def test_more_neighbours_than_there_are_tokens() -> None:
    sample = Sample(2, True, protect=True)
    done = run([sample], [6], "knn", {"neighbours": 1000})
    assert done.matrix is not None
    check(sample, done, 0, 6, lambda s, selected, extra: plain_knn(s, selected, extra, 1000), 0)


@pytest.mark.parametrize("case", ["nearest", "nearest-mean", "residual", "knn-residual", "soft"])
def test_nothing_is_lost_where_every_token_joins_a_row(case: str) -> None:
    name, params, _, _ = CASES[case]
    samples = [Sample(n, True, protect=True) for n in range(3)]
    done = run(samples, [9, 9, 6], name, params)
    assert done.mass.sum(1).tolist() == pytest.approx([sum(s.mass) for s in samples])
