"""Mergers against plain loops over their definitions, one sample at a time, in double precision.

The loops see lists; the engine sees a batch of samples of different length whose padding is NaN.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedStage
from autoprune.pruning import parts
from autoprune.pruning.decoder_signals import ProjectedFeatures
from autoprune.pruning.plan import PlannedPick, PlannedStage, Use
from autoprune.pruning.signals import PartConfig, Signal, Site
from autoprune.pruning.stage import Reduction, reduce
from autoprune.pruning.view import Grid, StageView

torch.set_num_threads(1)

COUNTS, WIDTH, DIM = [23, 36, 11], 38, 6
PROTECTED = [(4, 22), (), (0, 1, 10)]
SIDE = 2
Weights = dict[int, dict[int, float]]  # token at which a row stands -> its members and what each weighs before mass


class Sample:
    """Lists of one sample; the same numbers whatever batch it is in."""

    def __init__(self, number: int, scored: bool, protect: bool) -> None:
        dice, self.count = random.Random(number), COUNTS[number]
        self.protected = PROTECTED[number] if protect else ()
        self.candidates = [i for i in range(self.count) if i not in self.protected]
        made = {
            space: [[dice.gauss(0.3, 1) for _ in range(DIM)] for _ in range(self.count)]
            for space in ("hidden", "projected", "encoder")
        }
        self.hidden, self.features = made["hidden"], made
        self.mass = [dice.choice([1.0, 1.0, 2.0, 3.5]) for _ in range(self.count)]
        # segments of 3 x 3 tokens, two of them in an image
        self.grid = [(i // 18, i % 18 // 9, i % 9 // 3, i % 3) for i in range(self.count)]
        self.scores = [dice.gauss(0.5, 0.6) for _ in range(self.count)] if scored else None
        if self.scores is not None:
            self.scores[7] = float("nan")

    def order(self, tokens: Sequence[int]) -> list[int]:
        """By falling score, NaN last, equals to the earlier."""
        assert self.scores is not None
        worth = [-math.inf if math.isnan(s) else s for s in self.scores]
        return sorted(tokens, key=lambda i: (-worth[i], i))

    def weight(self, token: int) -> float:
        assert self.scores is not None
        score = self.scores[token]
        return score if score > 0 else 0.0  # NaN is not above 0


def padded(rows: Sequence[Sequence[Any]], size: tuple[int, ...] = ()) -> torch.Tensor:
    result = torch.full((len(rows), WIDTH, *size), float("nan"))
    for b, row in enumerate(rows):
        result[b, : len(row)] = torch.tensor(row)
    return result


def view_of(samples: Sequence[Sample]) -> StageView:
    counts = torch.tensor([s.count for s in samples])
    numbers = torch.arange(WIDTH).expand(len(samples), WIDTH)
    valid = numbers < counts[:, None]
    shielded = torch.zeros_like(valid)
    for b, sample in enumerate(samples):
        shielded[b, list(sample.protected)] = True

    def provide(signal: Signal) -> torch.Tensor:
        space = "projected" if isinstance(signal, ProjectedFeatures) else "encoder"
        return padded([s.features[space] for s in samples], (DIM,))

    def refused(asked: object) -> Any:
        raise AssertionError(asked)

    places = [[[p[axis] for p in s.grid] + [0] * (WIDTH - s.count) for s in samples] for axis in range(4)]
    return StageView(
        site=Site("llm", 3, 6, 3, True),
        hidden=padded([s.hidden for s in samples], (DIM,)),
        valid=valid,
        candidates=valid & ~shielded,
        tokens=numbers,
        place=numbers,
        mass=padded([s.mass for s in samples]),
        provide=provide,
        grid=Grid(*(torch.tensor(axis) for axis in places)),
        text=refused,
        partition=refused,
        unpruned=torch.tensor([s.count for s in samples]),
        pairs=refused,
    )


def use(kind: parts.Kind, name: str, params: Mapping[str, Any] | None = None) -> Use:
    info = parts.find(kind, name)
    assert info is not None
    config = info.config.model_validate(dict(params or {}))
    assert isinstance(config, PartConfig)
    return Use(info.run, config)


def run(
    samples: Sequence[Sample], keep: Sequence[int], name: str, params: Mapping[str, Any] | None = None
) -> Reduction:
    """The engine's stage: `top` where there are scores, else `stride`."""
    score = None
    if samples[0].scores is not None:
        given = padded([s.scores or [] for s in samples])
        score = Use(lambda view, config: given, PartConfig())
    select = use("selector", "stride" if score is None else "top")
    stage = ResolvedStage("llm", 3, Keep("fraction", Fraction(1, 2)), (ResolvedPick(None, Part("top")),), Part(name))
    view = view_of(samples)
    merge = use("merger", name, params)
    planned = PlannedStage(0, stage, view.site, (PlannedPick(score, select, None),), merge, frozenset())
    return reduce(planned, view, keep, [s.count for s in samples], [len(s.protected) for s in samples])


# ------------------------------------------------------------------------------------------------------ the plain loops
def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


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
