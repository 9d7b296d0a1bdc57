"""Every selector as a plain loop over its definition, sample by sample, and the cases that tests run them on."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol

import pruning_support  # noqa: F401 - one thread, quiet library
import torch
from selector_worlds import (
    Row,
    Task,
    cosine,
    key_norms,
)


class GainOf(Protocol):
    def __call__(self, i: int, before: list[int]) -> float: ...


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


def every_variant() -> list[tuple[str, dict[str, Any]]]:
    known = [(name, params) for name, params, _ in (*CASES, *SMOOTH)]
    return [("stride", {}), *known]
