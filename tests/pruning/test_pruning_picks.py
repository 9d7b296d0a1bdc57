"""Picks that overlap or dilate, single heads, early positions first, an overview that shares out, prior rows."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from part_worlds import ALL, COUNTS, GEOMETRY, PROTECTED, RANDOM, World, plan_stage
from test_pruning_parts import check_kept

from autoprune.errors import BadInput
from autoprune.models.family import ImageLayout
from autoprune.policy.resolved import Keep, Mix, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.pruning.grouping import Partition, select
from autoprune.pruning.groups.tile import Tile, tile
from autoprune.pruning.lattice import lattice_scores
from autoprune.pruning.overview import Covering, covering
from autoprune.pruning.picking import beside
from autoprune.pruning.plan import PlannedPick, PlannedStage, Use, evaluate, make_plan
from autoprune.pruning.tensors import best
from autoprune.pruning.view import Grid, Quota, StageView

OTHER = Part("random", {"seed": 7})
EACH = Part("llm_attention", {"heads": "each"})


def planned(*picks: ResolvedPick, merge: str = "drop") -> PlannedStage:
    stage = ResolvedStage("llm", 3, Keep("fraction", Fraction(1, 2)), picks, Part(merge))
    return make_plan(ResolvedPolicy((stage,), 6), GEOMETRY).stages[0]


def by_score(scores: torch.Tensor, tokens: list[int]) -> list[int]:
    return sorted(tokens, key=lambda t: (-float(scores[t]), t))


def neighbours(token: int, count: int) -> list[int]:
    """On a grid of six columns, without stepping into another row."""
    row, column = divmod(token, 6)
    around = [(row - 1, column), (row, column - 1), (row, column + 1), (row + 1, column)]
    return [6 * r + c for r, c in around if r >= 0 and 0 <= c < 6 and 6 * r + c < count]


def half_up(share: Fraction, total: int) -> int:
    return int(share * total + Fraction(1, 2))


# --------------------------------------------------------------------------------------------------------- overlap
@pytest.mark.parametrize("keep", [[8, 11, 6], [22, 35, 10], [3, 2, 4], [0, 5, 3]])
def test_picks_that_overlap_are_a_union_filled_up_by_the_last(keep: list[int]) -> None:
    """Each chooses from all candidates; what two choose counts once; the last takes exactly what is left."""
    stage = planned(
        ResolvedPick(RANDOM, Part("top"), Fraction(1, 2)),
        ResolvedPick(OTHER, Part("top"), Fraction(2, 5), overlap=True),
        ResolvedPick(RANDOM, Part("top")),
    )
    view, done = ALL.view(stage), ALL.reduce(stage, keep)
    check_kept(done, keep)
    first, second = (evaluate(p.score, view) for p in stage.picks[:2] if p.score is not None)
    for b, count in enumerate(COUNTS):
        if not keep[b]:
            continue
        free = [t for t in range(count) if t not in PROTECTED[b]]
        room = max(keep[b] - len(PROTECTED[b]), 0)
        union = by_score(first[b], free)[: half_up(Fraction(1, 2), room)]
        for t in by_score(second[b], free)[: half_up(Fraction(2, 5), room)]:
            if t not in union and len(union) < room:
                union.append(t)
        union += [t for t in by_score(first[b], free) if t not in union][: room - len(union)]
        assert done.kept.mask[b].nonzero().flatten().tolist() == sorted({*union, *PROTECTED[b]})
        alone = World([b]).reduce(stage, [keep[b]])
        assert alone.kept.index[0, : keep[b]].tolist() == done.kept.index[b, : keep[b]].tolist()


def test_a_union_larger_than_the_stage_is_cut_by_score() -> None:
    """Three picks of 0.3, 0.3 and 0.5 (BTP) may choose more together than the stage keeps."""
    stage = planned(
        ResolvedPick(RANDOM, Part("top"), Fraction(3, 5)),
        ResolvedPick(OTHER, Part("top"), Fraction(9, 10), overlap=True),
        ResolvedPick(None, Part("stride")),
    )
    keep = [12, 17, 6]
    done, view = ALL.reduce(stage, keep), ALL.view(stage)
    check_kept(done, keep)
    second = evaluate(stage.picks[1].score, view)  # type: ignore[arg-type]
    first = evaluate(stage.picks[0].score, view)  # type: ignore[arg-type]
    for b, count in enumerate(COUNTS):
        free, room = [t for t in range(count) if t not in PROTECTED[b]], keep[b] - len(PROTECTED[b])
        chosen = by_score(first[b], free)[: half_up(Fraction(3, 5), room)]
        chosen += [t for t in by_score(second[b], free)[: half_up(Fraction(9, 10), room)] if t not in chosen]
        assert done.kept.mask[b].nonzero().flatten().tolist() == sorted({*chosen[:room], *PROTECTED[b]})


def test_a_greedy_pick_that_overlaps_starts_afresh_and_the_last_continues_from_the_union() -> None:
    far = Part("far", {"space": "hidden"})
    alone = planned(ResolvedPick(None, far, Fraction(1, 2)), ResolvedPick(RANDOM, Part("top")))
    union = planned(
        ResolvedPick(RANDOM, Part("top"), Fraction(1, 3)),
        ResolvedPick(None, far, Fraction(1, 2), overlap=True),
        ResolvedPick(None, far),
    )
    view = ALL.view(union)
    wanted = torch.tensor([10, 16, 4])
    fresh = select(alone.picks[0], view, None, Quota(wanted, 16), view.candidates, view.candidates & False)
    keep = [20 + len(PROTECTED[0]), 32, 8 + len(PROTECTED[2])]
    done = ALL.reduce(union, keep)
    check_kept(done, keep)
    assert (fresh & ~done.kept.mask).sum() == 0


# --------------------------------------------------------------------------------------------------------- dilate
def test_neighbours_stay_in_their_row_segment_and_image() -> None:
    """Two images: an overview of 2 x 3 and tiles of 2 x 2; then 1 x 3."""
    image = torch.tensor([[0] * 10 + [1] * 3])
    segment = torch.tensor([[0] * 6 + [1] * 4 + [0] * 3])
    row = torch.tensor([[0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0]])
    column = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 0, 1, 2]])
    grid, everything = Grid(image, segment, row, column), torch.ones(1, 13, dtype=torch.bool)
    expected = {2: [1, 5], 3: [0, 4], 4: [1, 3, 5], 5: [2, 4], 6: [7, 8], 9: [7, 8], 10: [11], 12: [11]}
    for token, around in expected.items():
        chosen = torch.zeros(1, 13, dtype=torch.bool)
        chosen[0, token] = True
        assert beside(grid, chosen, everything)[0].nonzero().flatten().tolist() == around
        assert not beside(grid, chosen, everything & ~chosen).any()  # a padded token has no neighbours


@pytest.mark.parametrize("keep", [[23 - 1, 30, 9], [10, 21, 4], [12, 5, 6]])
@pytest.mark.parametrize("share", [Fraction(1, 2), Fraction(1, 10), Fraction(9, 10)])
def test_a_fifth_of_a_dilating_picks_share_brings_its_neighbours(keep: list[int], share: Fraction) -> None:
    stage = planned(
        ResolvedPick(RANDOM, Part("top"), share, dilate="cross"),
        ResolvedPick(OTHER, Part("top")),
    )
    view, done = ALL.view(stage), ALL.reduce(stage, keep)
    check_kept(done, keep)
    first, second = (evaluate(p.score, view) for p in stage.picks if p.score is not None)
    for b, count in enumerate(COUNTS):
        free = [t for t in range(count) if t not in PROTECTED[b]]
        room = max(keep[b] - len(PROTECTED[b]), 0)
        anchors = by_score(first[b], free)[: half_up(Fraction(half_up(share, room), 5), 1)]
        buffers = {n for a in anchors for n in neighbours(a, count)} - {*anchors, *PROTECTED[b]}
        chosen = (anchors + by_score(first[b], sorted(buffers)))[:room]
        chosen += [t for t in by_score(second[b], free) if t not in chosen][: room - len(chosen)]
        assert done.kept.mask[b].nonzero().flatten().tolist() == sorted({*chosen, *PROTECTED[b]})


# --------------------------------------------------------------------------------------------------------- heads
@pytest.mark.parametrize("split", ["equal", "proportional"])
@pytest.mark.parametrize("selector", ["top", "far"])
def test_every_head_chooses_its_share_of_what_is_left(split: str, selector: str) -> None:
    stage = plan_stage(EACH, Part(selector), group=Part("head", {"split": split}))
    assert stage is not None
    view, pick = ALL.view(stage), stage.picks[0]
    assert pick.score is not None
    scores = evaluate(pick.score, view)
    assert scores.shape == (3, 36, 4)
    wanted = [7, 18, 3]
    quota = Quota(torch.tensor(wanted), max(wanted))
    chosen = select(pick, view, scores, quota, view.candidates, view.candidates & False)
    assert chosen.sum(1).tolist() == wanted
    for b in range(3):
        alone = World([b]).view(stage)
        single = Quota(torch.tensor([wanted[b]]), wanted[b])
        own = select(pick, alone, evaluate(pick.score, alone), single, alone.candidates, alone.candidates & False)
        assert torch.equal(own[0, : COUNTS[b]], chosen[b, : COUNTS[b]])
    if selector == "top" and split == "equal":
        for b, count in enumerate(COUNTS):
            taken: list[int] = []
            for head in range(4):
                free = [t for t in range(count) if t not in PROTECTED[b] and t not in taken]
                taken += by_score(scores[b, :, head], free)[: wanted[b] // 4 + (head < wanted[b] % 4)]
            assert chosen[b].nonzero().flatten().tolist() == sorted(taken)


def test_a_stage_of_heads_keeps_exactly_its_count_and_mergers_see_the_mean() -> None:
    stage = plan_stage(EACH, Part("top"), Part("residual"), group=Part("head"))
    assert stage is not None
    keep = [8, 11, 6]
    done = ALL.reduce(stage, keep)
    check_kept(done, keep)
    assert stage.picks[0].score is not None
    assert done.kept.scores is not None
    assert torch.equal(done.kept.scores, evaluate(stage.picks[0].score, ALL.view(stage)).mean(2))


@pytest.mark.parametrize(
    ("pick", "says"),
    [
        (ResolvedPick(EACH, Part("top")), "`heads: each` needs `group: head`"),
        (ResolvedPick(RANDOM, Part("top"), group=Part("head")), "needs a score with `heads: each`"),
        (ResolvedPick(EACH, Part("top"), group=Part("row")), "`heads: each` needs `group: head`"),
        (ResolvedPick(Mix(((Fraction(1), EACH),)), Part("top")), "cannot be part of a mix"),
        (ResolvedPick(EACH, Part("top"), group=Part("head"), allocate=RANDOM), "`allocate` has no meaning"),
        (ResolvedPick(RANDOM, Part("top"), group=Part("row"), allocate=EACH), "cannot say how groups share"),
    ],
)
def test_scores_of_heads_and_groups_of_heads_go_together(pick: ResolvedPick, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        planned(pick)


# --------------------------------------------------------------------------------------------------------- debias
@pytest.mark.parametrize("factor", [1.0, 1.2, 3.7, 50.0])
def test_of_the_best_candidates_the_early_ones_come_first(factor: float) -> None:
    stage = planned(
        ResolvedPick(OTHER, Part("top"), Fraction(1, 4)),
        ResolvedPick(RANDOM, Part("debias", {"factor": factor})),
    )
    view, keep = ALL.view(stage), [10, 18, 7]
    done = ALL.reduce(stage, keep)
    check_kept(done, keep)
    first, scores = (evaluate(p.score, view) for p in stage.picks if p.score is not None)
    for b, count in enumerate(COUNTS):
        room = keep[b] - len(PROTECTED[b])
        free = [t for t in range(count) if t not in PROTECTED[b]]
        taken = by_score(first[b], free)[: half_up(Fraction(1, 4), room)]
        wanted = room - len(taken)
        among = by_score(scores[b], [t for t in free if t not in taken])[: int(factor * wanted)]
        ordered = [t for t in among if t < keep[b]] + [t for t in among if t >= keep[b]]
        assert done.kept.mask[b].nonzero().flatten().tolist() == sorted({*taken, *ordered[:wanted], *PROTECTED[b]})


# --------------------------------------------------------------------------------------------------------- overview
def tiled(rows: int = 4, columns: int = 4) -> ImageLayout:
    """An overview of 2 x 2, then 2 x 2 tiles of 2 x 2 tokens, cut to so many rows and columns."""
    low = [(0, r, c, 2 * r + c) for r in range(2) for c in range(2)]
    high = [
        (1, r, c, 4 + 4 * (2 * (r // 2) + c // 2) + 2 * (r % 2) + c % 2) for r in range(rows) for c in range(columns)
    ]
    segment, row, column, source = (torch.tensor(x) for x in zip(*low, *high, strict=True))
    return ImageLayout(source, segment, row, column, 5)


def test_every_token_of_the_overview_lies_in_a_true_tile() -> None:
    layout = tiled()
    assert tile(layout, Tile())[:4].tolist() == [0, 0, 0, 0]
    assert covering(layout, Covering())[:4].tolist() == [1, 2, 3, 4]
    assert covering(layout, Covering())[4:].tolist() == tile(layout, Tile())[4:].tolist()
    cut = covering(tiled(rows=2), Covering())  # a wide picture: the lower tiles are all padding and gone
    assert cut[:4].tolist() == [1, 2, 1, 2]
    plain = ImageLayout(torch.arange(4), torch.zeros(4, dtype=torch.long), torch.arange(4), torch.arange(4), 1)
    assert covering(plain, Covering()).tolist() == [0, 0, 0, 0]


def large(rows: int, low: int) -> ImageLayout:
    """An overview of low x low, then 2 x 2 tiles of low x low, the lowest rows cut off."""
    cells = [(0, r, c, low * r + c) for r in range(low) for c in range(low)]
    for r in range(rows):
        for c in range(2 * low):
            number = 1 + 2 * (r // low) + c // low
            cells.append((1, r, c, number * low * low + low * (r % low) + c % low))
    segment, row, column, source = (torch.tensor(x) for x in zip(*cells, strict=True))
    return ImageLayout(source, segment, row, column, 5)


@pytest.mark.parametrize(("rows", "share"), [(8, 0.5), (6, 0.5), (8, 0.25)])
def test_the_overviews_best_tokens_share_the_count_among_the_tiles(rows: int, share: float) -> None:
    """HiRED, token by token; and the trap: tokens that are all in one quadrant give their tile everything."""
    layout, low = large(rows, 4), 4
    total = len(layout.source)
    generator = torch.Generator().manual_seed(rows)
    shallow, deep = torch.rand(total, generator=generator), torch.rand(total, generator=generator)
    quadrant = torch.where((layout.segment == 0) & (layout.row < 2) & (layout.column < 2), 2.0, 0.0)
    for allocate in (shallow, quadrant + shallow / 10):
        view = _view(layout, {"shallow": allocate, "deep": deep})
        config = Tile.model_validate({"split": "overview", "overview": share})
        pick = PlannedPick(
            Use(_given("deep"), Tile()), Use(_top, Tile()), None, Use(tile, config), Use(_given("shallow"), Tile())
        )
        budget = 20
        chosen = select(pick, view, deep[None], Quota(torch.tensor([budget]), budget), view.valid, view.valid & False)
        above = by_score(allocate, list(range(low * low)))[: int((1 - share) * low * low + 0.5)]
        hits = [0] * 5
        for token in above:
            row, column = divmod(token, low)
            r, c = (2 * row + 1) * rows // (2 * low), (2 * column + 1) * 2 * low // (2 * low)
            hits[1 + 2 * (r // low) + c // low] += 1
        sizes = [int((tile(layout, Tile()) == g).sum()) for g in range(5)]
        weights = [share, *((1 - share) * h / len(above) for h in hits[1:])]
        given = _largest_remainder(budget, sizes, weights)
        found = [int((chosen[0] & (tile(layout, Tile()) == g)).sum()) for g in range(5)]
        assert found == given
        assert int(chosen.sum()) == budget
    assert found[0] == budget * share  # the four best of the overview lie in the first tile
    if share == 0.5 and rows == 8:
        assert found[1] >= max(found[2:])


def _largest_remainder(total: int, sizes: list[int], weights: list[float]) -> list[int]:
    full = [not s for s in sizes]
    while True:
        left = total - sum(s for s, f in zip(sizes, full, strict=True) if f)
        whole = sum(w for w, f in zip(weights, full, strict=True) if not f)
        ideal = [0.0 if f else left * w / whole for w, f in zip(weights, full, strict=True)]
        now = [f or q >= s for f, q, s in zip(full, ideal, sizes, strict=True)]
        if now == full:
            break
        full = now
    given = [s if f else int(q + 1e-9) for s, f, q in zip(sizes, full, ideal, strict=True)]
    order = sorted((i for i, f in enumerate(full) if not f), key=lambda i: (round(int(ideal[i]) - ideal[i], 9), i))
    for i in order[: total - sum(given)]:
        given[i] += 1
    return given


def _given(name: str) -> Any:
    def run(view: Any, config: Any) -> Any:
        return view.provide(name)

    return run


def _top(view: Any, scores: Any, quota: Quota, free: torch.Tensor, taken: Any, config: Any) -> torch.Tensor:
    return best(scores, free, quota.each)


def _view(layout: ImageLayout, values: dict[str, torch.Tensor]) -> StageView:
    """One sample of one image, with the criteria's values given by name."""
    count = len(layout.source)
    numbers = torch.arange(count)[None]
    everything = torch.ones(1, count, dtype=torch.bool)

    def partition(use: Use) -> Partition:
        ids = use.run(layout, use.config)
        return Partition(ids[None], int(ids.max()) + 1, int(torch.bincount(ids).max()))

    stage = plan_stage(RANDOM, Part("top"))
    assert stage is not None
    grid = Grid(numbers * 0, layout.segment[None], layout.row[None], layout.column[None])
    base = World([1]).view(stage)
    return replace(
        base, valid=everything, candidates=everything, tokens=numbers, place=numbers, mass=torch.ones(1, count),
        hidden=torch.zeros(1, count, 4), provide=lambda name: values[str(name)][None], grid=grid, partition=partition,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------- rows
@pytest.mark.parametrize("height", [1, 2, 5, 8, 24])
def test_rows_come_farthest_first_and_their_tokens_are_alike(height: int) -> None:
    number = torch.arange(height * 3)
    layout = ImageLayout(number, torch.zeros_like(number), number // 3, number % 3, 1)
    scores = lattice_scores(layout, "rows").view(height, 3)
    assert (scores == scores[:, :1]).all()
    order = [0]
    while len(order) < height:
        rest = [r for r in range(height) if r not in order]
        order.append(max(rest, key=lambda r: (min(abs(r - o) for o in order), -r)))
    assert scores[:, 0].argsort(descending=True, stable=True).tolist() == order
    assert scores[order, 0].tolist() == pytest.approx([1 - i / height for i in range(height)])
