"""Selector and merger `pool`: adaptive average pooling of the grid, for any number of cells."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from part_worlds import RANDOM, World, plan_stage
from pruning_support import Sample, inputs, model, policy, single, stage

from autoprune.document.yaml import read
from autoprune.models.family import ImageLayout, geometry_of
from autoprune.policy import catalog
from autoprune.policy.budget import counts
from autoprune.policy.canonical import resolve
from autoprune.policy.document import Policy
from autoprune.policy.resolved import Part
from autoprune.pruning.grouping import Partition
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.plan import PlannedStage, Use
from autoprune.pruning.record import Run
from autoprune.pruning.session import Session
from autoprune.pruning.stage import Reduction, reduce
from autoprune.pruning.view import Grid, StageView


def planned(within: str = "segment", select: str = "pool") -> PlannedStage:
    params = {"within": within}
    chosen = Part(select, params) if select == "pool" else Part(select)
    made = plan_stage(RANDOM, chosen, Part("pool", params))
    assert made is not None
    return made


def view(layout: ImageLayout, stage: PlannedStage, gone: tuple[int, ...] = ()) -> StageView:
    """One image, of which some tokens are gone, with rows of 3 numbers."""
    here = torch.tensor([t for t in range(len(layout.source)) if t not in gone])
    everything = torch.ones(1, len(here), dtype=torch.bool)
    generator = torch.Generator().manual_seed(len(layout.source))
    hidden = torch.randn(len(layout.source), 3, generator=generator, dtype=torch.float32)[here]

    def partition(use: Use) -> Partition:
        ids = use.run(layout, use.config)
        return Partition(ids[here][None], int(ids.max()) + 1, int(torch.bincount(ids).max()))

    grid = Grid(here[None] * 0, layout.segment[here][None], layout.row[here][None], layout.column[here][None])
    return replace(
        World([1]).view(stage), hidden=hidden[None], valid=everything, candidates=everything, tokens=here[None],
        place=here[None], mass=torch.ones(1, len(here)), grid=grid, partition=partition,
        provide=lambda signal: here[None],
    )  # fmt: skip


def plain(height: int, width: int) -> ImageLayout:
    number = torch.arange(height * width)
    return ImageLayout(number, torch.zeros_like(number), number // width, number % width, 1)


def pooled(layout: ImageLayout, keep: int, within: str = "segment", gone: tuple[int, ...] = ()) -> Reduction:
    stage = planned(within)
    seen = view(layout, stage, gone)
    return reduce(stage, seen, [keep], [len(layout.source) - len(gone)], [0])


@pytest.mark.parametrize(
    ("height", "width", "high", "wide"),
    [
        (24, 24, 12, 12),
        (24, 24, 8, 8),
        (6, 6, 4, 4),
        (5, 5, 4, 4),
        (7, 7, 3, 3),
        (7, 7, 1, 1),
        (4, 12, 2, 6),
        (9, 3, 6, 2),
        (5, 5, 5, 5),
    ],
)
def test_a_regular_count_is_adaptive_average_pooling(height: int, width: int, high: int, wide: int) -> None:
    layout = plain(height, width)
    done, seen = pooled(layout, high * wide), view(layout, planned())
    picture = seen.hidden[0].T.reshape(1, 3, height, width)
    expected = torch.nn.functional.adaptive_avg_pool2d(picture, (high, wide))[0].flatten(1).T
    assert torch.allclose(done.rows(seen.hidden)[0], expected, atol=1e-6)
    middles = [
        ((2 * i + 1) * height // (2 * high)) * width + (2 * j + 1) * width // (2 * wide)
        for i in range(high)
        for j in range(wide)
    ]
    assert done.kept.index[0].tolist() == middles  # a mean stands where the middle of its cell stood
    if height % high == 0 and width % wide == 0:
        assert torch.allclose(done.mass, torch.full_like(done.mass, height * width / (high * wide)))
    assert float(done.mass.sum()) == pytest.approx(height * width, rel=1e-5)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 8), (9, 2), (1, 7)])
def test_any_count_of_cells_covers_the_grid(height: int, width: int) -> None:
    for keep in range(1, height * width + 1):
        done = pooled(plain(height, width), keep)
        assert int(done.kept.mask.sum()) == keep
        if keep == height * width:
            continue
        assert done.matrix is not None
        assert (done.matrix.sum(1) > 0).all()  # every token is in some cell
        assert torch.allclose(done.matrix.sum(2), torch.ones(1, keep))
        assert float(done.mass.sum()) == pytest.approx(height * width, rel=1e-5)


def tiles() -> ImageLayout:
    """An overview of 4 x 4, then two tiles of 4 x 4 side by side."""
    cells = [(0, r, c, 4 * r + c) for r in range(4) for c in range(4)]
    cells += [(1, r, c, 16 * (1 + c // 4) + 4 * r + c % 4) for r in range(4) for c in range(8)]
    segment, row, column, source = (torch.tensor(x) for x in zip(*cells, strict=True))
    return ImageLayout(source, segment, row, column, 3)


@pytest.mark.parametrize("within", ["segment", "tile"])
def test_segments_and_tiles_are_pooled_each_by_itself(within: str) -> None:
    layout, stage = tiles(), planned(within)
    seen = view(layout, stage)
    done = pooled(layout, 12, within)
    low = seen.hidden[0, :16].T.reshape(1, 3, 4, 4)
    high = seen.hidden[0, 16:].T.reshape(1, 3, 4, 8)
    pool = torch.nn.functional.adaptive_avg_pool2d
    over, tile = pool(low, (2, 2))[0].flatten(1).T, pool(high, (2, 4))[0].flatten(1).T
    assert torch.allclose(done.rows(seen.hidden)[0], torch.cat([over, tile]), atol=1e-6)


def test_where_tokens_are_gone_the_count_stays_exact() -> None:
    gone = (*range(12), 14, 21, 28, 35)
    for keep in range(1, 20):
        done = pooled(plain(6, 6), keep, gone=gone)
        assert int(done.kept.mask.sum()) == keep
        rows = done.matrix
        assert rows is None or torch.allclose(rows.sum(2), torch.ones(1, keep))


def test_under_another_selector_one_token_of_a_cell_takes_the_mean() -> None:
    """36 tokens, 4 kept by score: cells of 3 x 3; what is not nearest its cell's middle stays as it is."""
    stage = planned(select="top")
    seen = World([1]).view(stage, protect=False)
    done = reduce(stage, seen, [4], [36], [0])
    assert done.matrix is not None
    kept = done.kept.index[0].tolist()
    for k, token in enumerate(kept):
        cell = (token // 6 // 3, token % 6 // 3)
        same = [t for t in kept if (t // 6 // 3, t % 6 // 3) == cell]
        middle = (3 * cell[0] + 1, 3 * cell[1] + 1)
        first = min(same, key=lambda t: ((t // 6 - middle[0]) ** 2 + (t % 6 - middle[1]) ** 2, t))
        members = [t for t in range(36) if (t // 6 // 3, t % 6 // 3) == cell and (t == first or t not in kept)]
        expected = members if token == first else [token]
        assert done.matrix[0, k].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_on_a_model_a_quarter_is_the_grid_of_half_the_side(family: str) -> None:
    made = model(family)
    batch = inputs(made, [Sample(9), Sample(6, ((48, 96), (96, 96)))])
    with Session(made, policy(stage(0, "1/4", None, "pool", "pool"))) as session, torch.no_grad():
        made(**batch, use_cache=False)
        run = session.run
    assert [run.lengths[3][b] for b in range(2)] == [max((2 * n + 4) // 8, 1) for n in run.n]
    if family == "llava":
        expected = [6 * (2 * i + 1) + 2 * j + 1 for i in range(3) for j in range(3)]
        assert run.kept(3, 0) == expected
        assert run.kept(3, 1) == expected + [36 + t for t in expected]


@pytest.mark.parametrize("name", ["hired", "hiprune", "ptp", "pooling", "btp"])
def test_tiled_pictures_keep_their_count_and_a_batch_is_its_samples(name: str) -> None:
    """The documents whose groups, neighbours or cells follow the tiles, on pictures of two sizes."""
    made = model("llava_next")
    samples = [Sample(9, ((48, 96),)), Sample(14, ((96, 96), (48, 96))), Sample(6, ())]
    batch = inputs(made, samples)
    policy_of = Policy.from_source(read(catalog.find("policies", name)), RegisteredParts())
    document = replace(policy_of, stages=policy_of.stages[:1])  # the tiny model is too shallow for the others
    resolved = resolve(document, geometry_of(made.config.to_dict()), RegisteredParts())
    layer = resolved.stages[0].layer

    def kept(rows: dict[str, torch.Tensor]) -> Run:
        with Session(made, resolved) as session, torch.no_grad():
            made(**rows, use_cache=False)
            return session.run

    together = kept(batch)
    for b, n in enumerate(together.n):
        newlines = sum(height // 8 for height, _ in samples[b].images)
        assert together.lengths[layer][b] == (counts(resolved, n, newlines)[0] if n else 0)
        alone = kept(single(batch, samples, b))
        if n:
            assert alone.kept(layer, 0) == together.kept(layer, b)
            assert len(set(together.kept(layer, b))) == together.lengths[layer][b] < n


@pytest.mark.parametrize("keep", ["1/2", "1/3", "5/12"])
def test_in_rows_each_row_is_cut_by_itself(keep: str) -> None:
    """Of a row, the middles of as many equal parts as it has tokens to keep; without the group, other tokens."""
    made = model()
    bound = geometry_of(made.config.to_dict())
    side = 6

    def kept(**group: str) -> list[int]:
        stage = {"at": "llm:2", "keep": keep, "select": "pool", **group}
        written = Policy.parse({"schema": "autoprune/policy/1", "stages": [stage]}, RegisteredParts())
        with Session(made, resolve(written, bound, RegisteredParts(), side * side)) as session, torch.no_grad():
            made(**inputs(made, [Sample(9)]))
            return session.run.kept(3, 0)

    found = kept(group="row")
    for row in range(side):
        columns = [token % side for token in found if token // side == row]
        parts = len(columns)
        assert columns == [(2 * i + 1) * side // (2 * parts) for i in range(parts)]
    counts = [sum(token // side == row for token in found) for row in range(side)]
    assert max(counts) - min(counts) <= 1
    assert found != kept()
