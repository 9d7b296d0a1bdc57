"""Every selector against a plain loop over its definition, sample by sample."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import pruning_support  # noqa: F401 - one thread, quiet library
import pytest
import torch
from selector_worlds import (
    QUOTAS,
    SITE,
    SPACES,
    TEXT_SPACES,
    WIDTH,
    Row,
    Run,
    Sample,
    Task,
    cosine,
    key_norms,
    make,
    mask,
    padded,
    tasks,
    view_of,
)
from torch.utils.flop_counter import FlopCounterMode

from autoprune.document.yaml import parse, write
from autoprune.errors import BadInput
from autoprune.policy.document import Policy
from autoprune.policy.geometry import Geometry, VisionGeometry
from autoprune.pruning import parts
from autoprune.pruning.greedy import unit_interval
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.view import Quota


class GainOf(Protocol):
    def __call__(self, i: int, before: list[int]) -> float: ...


SEEDS = [1, 2]


# ------------------------------------------------------------------------------------------------------ plain loops
def first_largest(among: list[int], value: Callable[[int], float]) -> int:
    best = among[0]
    for i in among[1:]:
        if value(i) > value(best) + 1e-9:  # what is equal by symmetry is equal
            best = i
    return best


def loop(task: Task, gain: GainOf, seed: Callable[[int], float] | None = None) -> list[int]:
    """Add the largest gain given everything chosen so far; `seed` decides where nothing is."""
    chosen: list[int] = []
    while len(chosen) < task.k:
        left = [i for i in task.free if i not in chosen]
        before = task.taken + chosen
        chosen.append(first_largest(left, seed if seed and not before else functools.partial(gain, before=before)))
    return sorted(chosen)


def seed_of(task: Task, space: str) -> Callable[[int], float]:
    rows, scores = task.sample.rows[space], task.scores
    if scores is not None:
        return lambda i: scores[i]
    return lambda i: min((1 - cosine(rows[i], rows[j]) for j in task.free if j != i), default=math.inf)


def in_unit(task: Task) -> Callable[[int], float]:
    assert task.scores is not None
    scores = task.scores
    values = [scores[i] for i in task.sample.candidates]
    low, high = min(values), max(values)
    return lambda i: (scores[i] - low) / (high - low)


def plain_top(task: Task, **_: Any) -> list[int]:
    assert task.scores is not None
    scores = task.scores
    return sorted(sorted(task.free, key=lambda i: -scores[i])[: task.k])


def plain_far(task: Task, space: str) -> list[int]:
    rows = task.sample.rows[space]
    return loop(task, lambda i, before: min(1 - cosine(rows[i], rows[j]) for j in before), seed_of(task, space))


def plain_spread(task: Task, space: str) -> list[int]:
    rows = task.sample.rows[space]
    return loop(task, lambda i, before: -sum(cosine(rows[i], rows[j]) for j in before), seed_of(task, space))


def plain_far_times_score(task: Task, space: str) -> list[int]:
    rows, weight = task.sample.rows[space], in_unit(task)

    def gain(i: int, before: list[int]) -> float:
        return weight(i) * max(0.0, min(1 - cosine(rows[i], rows[j]) for j in before))

    return loop(task, gain, seed_of(task, space))


def plain_nms(task: Task, space: str, tau: float) -> list[int]:
    """One visit by falling score, then the rest by score."""
    rows, kept = task.sample.rows[space], list(task.taken)
    assert task.scores is not None
    scores = task.scores
    order = sorted(task.free, key=lambda i: -scores[i])
    chosen: list[int] = []
    for i in order:
        if len(chosen) < task.k and all(cosine(rows[i], rows[j]) <= tau for j in kept):
            chosen.append(i)
            kept.append(i)
    for i in order:
        if len(chosen) < task.k and i not in chosen:
            chosen.append(i)
    return sorted(chosen)


def plain_cover(
    task: Task,
    kernel: str,
    space: str = "encoder",
    text_weight: float = 1.0,
    text_temperature: float = 0.02,
    vision_weight: float = 0.5,
    vision_temperature: float = 0.2,
    score_weight: float = 0.0,
) -> list[int]:
    sample, columns = task.sample, task.sample.candidates

    def matrix(rows: list[Row], tokens: list[Row], weight: float, heat: float) -> list[dict[int, float]]:
        found = []
        for row in rows:
            alike = {i: cosine(row, tokens[i]) for i in columns}
            if kernel == "cosine":
                found.append({i: weight * (1 + c) / 2 for i, c in alike.items()})
            else:
                total = sum(math.exp(c / heat) for c in alike.values())
                found.append({i: weight * math.exp(c / heat) / total / len(rows) for i, c in alike.items()})
        return found

    own = [sample.rows[space][i] for i in columns]
    words = sample.text["projected"] if text_weight else []
    m = matrix(words, sample.rows["projected"], text_weight, text_temperature)
    m += matrix(own, sample.rows[space], vision_weight, vision_temperature)
    weight = in_unit(task) if score_weight else lambda i: 0.0

    def gain(i: int, before: list[int]) -> float:
        better = sum(max(0.0, row[i] - max((row[j] for j in before), default=0.0)) for row in m)
        return better + score_weight * weight(i)

    return loop(task, gain)


def plain_dpp(task: Task, space: str, relevance_weight: float | None = None) -> list[int]:
    """By projection: what least squares leave of a row, given the chosen ones."""
    rows = torch.tensor(task.sample.rows[space], dtype=torch.float64)
    rows = rows / rows.norm(dim=1, keepdim=True)
    score = in_unit(task) if task.scores is not None else lambda i: 1.0

    def relevance(i: int) -> float:
        if relevance_weight is None:
            return max(score(i), 1e-6)
        return math.exp(relevance_weight / (2 * (1 - relevance_weight)) * score(i))

    def gain(i: int, before: list[int]) -> float:
        left = 1.0
        if before:
            basis = rows[before].T
            left = float((rows[i] - basis @ torch.linalg.pinv(basis, rtol=1e-6) @ rows[i]).square().sum())
        return relevance(i) ** 2 * left if left > 1e-5 else relevance(i) - 1e9

    return loop(task, gain)


def plain_pivot(task: Task, image: int, text: int, space: str) -> list[int]:
    sample, scores = task.sample, task.scores
    assert scores is not None
    ours = sorted(task.free, key=lambda i: -scores[i])[: min(image, task.k)]
    norms = key_norms(sample)
    theirs = sorted(range(len(norms)), key=lambda r: -norms[r])[:text]
    pivots = [sample.rows[space][i] for i in ours] + [sample.text[space][r] for r in theirs]
    chosen = list(ours)
    for number, pivot in enumerate(pivots):
        rest = task.k - len(ours)
        share = rest // len(pivots) + (1 if number < rest % len(pivots) else 0)
        left = [i for i in task.free if i not in chosen]
        chosen += sorted(left, key=lambda i: cosine(pivot, sample.rows[space][i]))[:share]
    return sorted(chosen)


def plain_peel(task: Task, split: str, by: str, step: int, space: str) -> list[int]:
    rows, scores = task.sample.rows[space], task.scores
    kept = list(task.free) if scores is None else sorted(task.free, key=lambda i: -scores[i])
    while len(kept) > task.k:
        if split == "alternate":
            able, others = kept[0::2], kept[1::2]
        elif split == "half":
            able, others = kept[len(kept) // 2 :], kept[: len(kept) // 2]
        else:
            able, others = kept, kept
        redundancy = {}
        for i in able:
            likeness = [cosine(rows[i], rows[j]) for j in others if j != i]
            redundancy[i] = (max(likeness) if by == "max" else sum(likeness)) if likeness else -math.inf
        going = sorted(reversed(able), key=lambda i: -redundancy[i])[: min(step, len(kept) - task.k)]
        kept = [i for i in kept if i not in going]
    return sorted(kept)


# ------------------------------------------------------------------------------------------------------------ cases
CATP = {"kernel": "cosine", "space": "projected", "text_weight": 0, "vision_weight": 1, "score_weight": 0.75}
SPACE = [{"space": s} for s in ("projected", "encoder", "hidden")]
CASES: list[tuple[str, dict[str, Any], Callable[..., list[int]]]] = [
    ("top", {}, plain_top),
    *[("far", p, plain_far) for p in SPACE],
    *[("spread", p, plain_spread) for p in SPACE],
    *[("far_times_score", p, plain_far_times_score) for p in SPACE],
    *[("nms", {**p, "tau": t}, plain_nms) for p, t in zip(SPACE, (0.5, 0.25, -0.25), strict=True)],
    ("cover", CATP, plain_cover),
    ("pivot", {"image": 4, "text": 4, "space": "normed"}, plain_pivot),
    ("pivot", {"image": 4, "text": 2, "space": "hidden"}, plain_pivot),
    ("pivot", {"image": 2, "text": 0, "space": "projected"}, plain_pivot),
    ("pivot", {"image": 1, "text": 3, "space": "projected"}, plain_pivot),
    *[
        ("peel", {"split": split, "by": by, "step": step, "space": space}, plain_peel)
        for (split, by), (step, space) in zip(
            itertools.product(("alternate", "half", "full"), ("max", "sum")),
            itertools.cycle([(1, "encoder"), (3, "hidden"), (8, "projected"), (2, "encoder")]),
            strict=False,
        )
    ],
]
SMOOTH: list[tuple[str, dict[str, Any], Callable[..., list[int]]]] = [  # gains that rounding makes different
    ("cover", {"kernel": "softmax", "text_temperature": 0.1}, plain_cover),
    ("cover", {"kernel": "softmax", "space": "hidden", "vision_weight": 2, "score_weight": 0.03}, plain_cover),
    ("cover", {"kernel": "cosine", "text_weight": 2}, plain_cover),
    ("dpp", {"space": "encoder"}, plain_dpp),
    ("dpp", {"space": "projected", "relevance_weight": 0.6}, plain_dpp),
    ("dpp", {"space": "hidden", "relevance_weight": 0}, plain_dpp),
]
UNSCORED = ("far", "spread", "cover", "dpp", "peel")


def label(value: Any) -> str | None:
    return "-".join(map(str, value.values())) if isinstance(value, dict) else value if isinstance(value, str) else None


@pytest.mark.parametrize("earlier", [False, True], ids=["alone", "after-others"])
@pytest.mark.parametrize("kind", ["ties", "loose"])
@pytest.mark.parametrize(("name", "params", "plain"), CASES, ids=label)
def test_a_selector_is_its_definition(
    name: str, params: dict[str, Any], plain: Callable[..., list[int]], kind: str, earlier: bool
) -> None:
    check(name, params, plain, kind, earlier)


@pytest.mark.parametrize("earlier", [False, True], ids=["alone", "after-others"])
@pytest.mark.parametrize(("name", "params", "plain"), SMOOTH, ids=label)
def test_a_smooth_gain_is_its_definition(
    name: str, params: dict[str, Any], plain: Callable[..., list[int]], earlier: bool
) -> None:
    check(name, params, plain, "loose", earlier)


def check(name: str, params: dict[str, Any], plain: Callable[..., list[int]], kind: str, earlier: bool) -> None:
    run = Run(name, params)
    for seed, wanted in itertools.product(SEEDS, QUOTAS):
        for scored in (True, False) if name in UNSCORED and not params.get("score_weight") else (True,):
            batch = tasks(make(kind, seed), wanted, earlier, scored)
            found = run(batch)
            assert found == [plain(task, **params) for task in batch], (seed, wanted, scored)
            if seed == SEEDS[0]:  # batch = singles
                assert found == [run([task], len(task.sample.scores))[0] for task in batch]


GREEDY = [c for c in CASES if c[0] in ("top", "far", "spread", "far_times_score", "nms")] + SMOOTH


@pytest.mark.parametrize(("name", "params", "plain"), GREEDY, ids=label)
def test_greedy_sets_are_nested_and_two_picks_in_a_row_are_one(name: str, params: dict[str, Any], plain: Any) -> None:
    run = Run(name, params)
    for seed in SEEDS:
        samples = make("loose", seed)
        before: list[list[int]] = [[], [], []]
        for k in range(1, 8):
            batch = tasks(samples, [k, k, k], False)
            together = run(batch)
            assert all(set(b) < set(t) for b, t in zip(before, together, strict=True))
            one_more = [replace(t, taken=b, k=1) for t, b in zip(batch, before, strict=True)]
            assert [sorted(b + n) for b, n in zip(before, run(one_more), strict=True)] == together
            before = together


# ------------------------------------------------------------------------------------------------------ by hand
def line(scores: list[float], rows: list[list[float]], text: list[list[float]] | None = None) -> Sample:
    prompt = text or [[1.0, 0.0]]
    return Sample(dict.fromkeys(SPACES, rows), dict.fromkeys(TEXT_SPACES, prompt), scores, list(range(len(rows))))


def choose(name: str, sample: Sample, k: int, scored: bool = True, **params: Any) -> list[int]:
    (found,) = Run(name, params)([Task(sample, [], k, sample.scores if scored else None)], len(sample.scores))
    return found


EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def test_spread_adds_distances_up_where_far_takes_the_nearest() -> None:
    sample = line([3.0, 2.0, 1.0, 0.0], [EAST, WEST, WEST, NORTH])
    assert choose("far", sample, 3) == [0, 1, 3]
    assert choose("spread", sample, 3) == [0, 1, 2]  # to both together, west is as unlike as north


def test_far_times_score_weighs_distance() -> None:
    sample = line([1.0, 0.9, 0.5, 0.0], [EAST, EAST, NORTH, WEST])
    assert choose("far_times_score", sample, 2) == [0, 2]  # .9·0, .5·1, 0·2
    alike = line([2.0, 2.0, 2.0, 2.0], [EAST, EAST, NORTH, WEST])
    assert choose("far_times_score", alike, 2) == choose("far", alike, 2) == [0, 3]


def test_nms_lets_equals_of_the_threshold_pass_and_fills_up_by_score() -> None:
    sample = line([5.0, 4.0, 3.0, 2.0, 1.0], [EAST, EAST, NORTH, EAST, WEST])
    assert choose("nms", sample, 3, tau=0.5) == [0, 2, 4]
    assert choose("nms", sample, 4, tau=0.5) == [0, 1, 2, 4]
    assert choose("nms", sample, 3, tau=0) == [0, 2, 4]
    assert choose("nms", sample, 2, tau=-0.1) == [0, 4]
    assert choose("nms", sample, 3, tau=1) == [0, 1, 2]


def test_cover_answers_the_prompt_before_the_picture() -> None:
    sample = line([0.0] * 5, [EAST, EAST, EAST, NORTH, WEST], text=[NORTH, NORTH])
    assert choose("cover", sample, 1) == [3]
    assert choose("cover", sample, 2) == [0, 3]
    assert choose("cover", sample, 3, text_weight=0) == [0, 3, 4]  # those like the first are covered
    assert choose("cover", sample, 1, kernel="cosine", text_weight=0) == [0]  # most tokens look like it
    assert choose("cover", sample, 1, vision_weight=0) == [3]


def test_dpp_takes_no_direction_twice_and_then_goes_by_relevance() -> None:
    sample = line([0.1, 1.0, 0.9, 0.2, 0.3], [NORTH, EAST, EAST, NORTH, WEST])
    assert choose("dpp", sample, 2) == [1, 3]
    assert choose("dpp", sample, 3) == [1, 2, 3]
    assert choose("dpp", sample, 4) == [1, 2, 3, 4]
    assert choose("dpp", sample, 2, scored=False) == [0, 1]


def test_dpp_knows_what_is_spanned_near_the_rank_of_its_space() -> None:
    """Half of the directions are short: in float32 a spanned token seems to add something. Alone or in a batch."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 36, 6, generator=generator) * torch.tensor([1, 1, 1, 0.1, 0.1, 0.1])
    scores = torch.rand(200, 36, generator=generator) ** 4
    text: dict[str, list[Row]] = {key: [[1.0] * 6] for key in TEXT_SPACES}
    worlds = [
        Sample(dict.fromkeys(SPACES, rows[i].tolist()), text, scores[i].tolist(), list(range(36))) for i in (24, 159, 0)
    ]
    wanted = [Task(sample, [], 20, sample.scores) for sample in worlds]
    run = Run("dpp", {"space": "encoder"})
    together = run(wanted, 36)
    assert together == [run([task], 36)[0] for task in wanted] == [plain_dpp(task, "encoder") for task in wanted]


def test_pivot_keeps_exactly_k_where_dart_rounds() -> None:
    rows = [[math.cos(a), math.sin(a)] for a in (0.0, 0.1, 0.2, 1.5, 3.0, 3.1, -1.5)]
    sample = line([9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], rows, text=[[0.1, 9.0], [0.0, 1.0]])
    assert choose("pivot", sample, 1, image=1, text=1) == [0]
    assert choose("pivot", sample, 2, image=1, text=1) == [0, 5]  # the image pivot's turn: west
    assert choose("pivot", sample, 3, image=1, text=1) == [0, 5, 6]  # the louder word points north: south
    assert choose("pivot", sample, 4, image=1, text=1) == [0, 4, 5, 6]


def test_peel_drops_the_more_duplicated_side_first() -> None:
    sample = line([4.0, 3.0, 2.0, 1.0], [EAST, WEST, NORTH, WEST])
    assert choose("peel", sample, 3, split="half") == [0, 1, 2]  # west below, west above
    assert choose("peel", sample, 3, split="alternate") == [0, 1, 3]  # east and north are equals: the later goes
    assert choose("peel", sample, 3, split="full", by="sum") == [0, 1, 2]  # the wests are alike: the later goes
    turned = line([4.0, 3.0, 2.0, 1.0], [WEST, EAST, NORTH, WEST])
    assert choose("peel", turned, 3, scored=False) == [1, 2, 3]


# ------------------------------------------------------------------------------------------------------ properties
def every_variant() -> list[tuple[str, dict[str, Any]]]:
    known = [(name, params) for name, params, _ in (*CASES, *SMOOTH)]
    return [("stride", {}), *known]


@pytest.mark.parametrize(("name", "params"), every_variant(), ids=label)
def test_choosing_never_waits_for_the_device(name: str, params: dict[str, Any]) -> None:
    """Tensors without data raise wherever the host asks for a value."""
    samples = make("loose", 1)
    real = view_of(samples)
    meta: Callable[[torch.Tensor], torch.Tensor] = lambda t: t.to("meta")  # noqa: E731
    tensors: dict[str, Any] = {
        key: meta(getattr(real, key)) for key in ("hidden", "valid", "candidates", "tokens", "place", "mass")
    }
    view = replace(
        real,
        **tensors,
        provide=lambda signal: meta(real.provide(signal)),
        text=lambda space: (meta(real.text(space)[0]), meta(real.text(space)[1])),
    )
    run = Run(name, params)
    quota = Quota(torch.tensor([3, 4, 2], device="meta"), 4, 2, 2)
    scores = meta(padded([s.scores for s in samples], WIDTH))
    taken = meta(mask([[0], [2, 3], []], WIDTH))
    chosen = run.info.run(view, scores, quota, view.candidates & ~taken, taken, run.config)
    assert chosen.shape == (3, WIDTH)


VISION = VisionGeometry(depth=3, width=8, heads=2, mlp=16, image_size=16, patch_size=4, has_cls=True)


def sizes(width: int, current: int, kept: int, text: int, scored: bool = True, earlier: int = 0) -> parts.Sizes:
    geometry = Geometry("llava", 6, width, 4, 2, 3, 20, 50, VISION, 16, projector_width=8)
    return parts.Sizes(geometry, SITE, current, kept, (current,) * 6, text, 1, scored, earlier)


@pytest.mark.parametrize("earlier", [False, True], ids=["alone", "after-others"])
@pytest.mark.parametrize(("name", "params"), every_variant(), ids=label)
def test_the_formula_is_what_a_run_executes(name: str, params: dict[str, Any], earlier: bool) -> None:
    run = Run(name, params)
    for scored, k in itertools.product((True, False), (1, 5, 9)):
        if not scored and ("score" in run.info.needs or params.get("score_weight")):
            continue
        sample = make("loose", 4)[1]  # nothing protected: all that is there is free
        taken = [2, 5, 11] if earlier else []
        view = view_of([sample], 20, prompt=4)
        quota = Quota(torch.tensor([k]), k, k, len(taken))
        scores = torch.tensor([sample.scores]) if scored else None
        picked = mask([taken], 20)
        with FlopCounterMode(display=False) as counter:
            run.info.run(view, scores, quota, ~picked, picked, run.config)
        expected = run.info.flops(run.config, sizes(8, 20, k, 4, scored, len(taken)))
        assert counter.get_total_flops() == expected, (scored, k)


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("spread", {"space": "encoder"}, 2 * (5 + 1) * 16 * 8),
        ("far_times_score", {}, 2 * (5 + 16) * 16 * 10),
        ("nms", {"space": "encoder"}, 2 * (5 + 16) * 16 * 8),
        ("cover", {}, 2 * 16 * (3 * 10 + 16 * 8)),
        ("cover", {"text_weight": 0, "space": "projected"}, 2 * 16 * 16 * 10),
        ("dpp", {}, 7 * 2 * 16 * 8 + 7 * 6 * 16),  # two of an earlier pick, five here
        ("pivot", {}, 2 * (4 + 3) * 16 * 10),
        ("peel", {}, 2 * 16 * 16 * 8),
        ("peel", {"by": "sum", "space": "hidden"}, 2 * 16 * 16 * 10),
    ],
    ids=str,
)
def test_flops_by_hand(name: str, params: dict[str, Any], expected: int) -> None:
    run = Run(name, params)
    assert run.info.flops(run.config, sizes(10, 16, 5, 3, earlier=2)) == expected


def test_scores_that_are_not_numbers_never_win() -> None:
    nan, inf = float("nan"), float("inf")
    scores = torch.tensor([[1.0, nan, -inf, 3.0, inf, 2.0, 99.0]])
    candidates = torch.tensor([[True, True, True, True, True, True, False]])
    assert unit_interval(scores, candidates)[0].tolist() == [0, 0, 0, 1, 1, 0.5, 0]
    assert unit_interval(torch.tensor([[nan, nan]]), torch.tensor([[True, True]]))[0].tolist() == [1, 1]


# ------------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize("name", ["top", "far_times_score", "nms", "pivot"])
def test_a_selector_that_ranks_needs_a_score(name: str) -> None:
    (task,) = tasks(make("loose", 1)[:1], [2], False, scored=False)
    with pytest.raises(BadInput, match=f"selector '{name}' needs a score"):
        Run(name)([task])
    assert said({"at": "llm:3", "keep": 0.5, "select": name}) == ["stages[0]", f"select: {name} needs a `score`"]


def test_a_score_weight_needs_a_score() -> None:
    (task,) = tasks(make("loose", 1)[:1], [2], False, scored=False)
    with pytest.raises(BadInput, match="score_weight needs a score"):
        Run("cover", {"score_weight": 0.7})([task])


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("nms", {"tau": 1.5}, "less than or equal to 1"),
        ("nms", {"tau": "half"}, "must be a number"),
        ("nms", {"tau": True}, "must be a number"),
        ("cover", {"text_temperature": 0}, "greater than 0"),
        ("cover", {"vision_weight": -1}, "greater than or equal to 0"),
        ("cover", {"kernel": "dot"}, "'softmax' or 'cosine'"),
        ("dpp", {"relevance_weight": 1}, "less than 1"),
        ("pivot", {"image": 0}, "greater than or equal to 1"),
        ("pivot", {"space": "pixels"}, "'hidden'"),
        ("peel", {"step": 0}, "greater than or equal to 1"),
        ("peel", {"step": 2.5}, "valid integer"),
        ("spread", {"tau": 1}, "tau"),
    ],
)
def test_wrong_parameters_are_said(name: str, params: dict[str, Any], says: str) -> None:
    path, message = said({"at": "llm:3", "keep": 0.5, "score": "random", "select": {name: params}})
    assert path == f"stages[0].select.{name}.{next(iter(params))}"
    assert says in message


def test_words_have_no_rows_of_the_tower() -> None:
    path, message = said({"at": "llm:3", "keep": 0.5, "score": "random", "select": {"pivot": {"space": "encoder"}}})
    assert path == "stages[0].select.pivot"
    assert "the prompt has no rows in the space `encoder`: set `text: 0`" in message


def test_covering_nothing_is_refused() -> None:
    stage = {"at": "llm:3", "keep": 0.5, "select": {"cover": {"text_weight": 0, "vision_weight": 0}}}
    assert "text_weight and vision_weight cannot both be 0" in said(stage)[1]


def said(stage: dict[str, Any]) -> list[str]:
    text = write({"schema": "autoprune/policy/1", "stages": [stage]})
    with pytest.raises(BadInput) as caught:
        Policy.from_source(parse(text, "p.yaml"), RegisteredParts())
    (problem,) = caught.value.problems
    return [problem.path, problem.message]


def test_numbers_may_be_fractions() -> None:
    assert Run("nms", {"tau": "9/10"}).config == Run("nms").config
