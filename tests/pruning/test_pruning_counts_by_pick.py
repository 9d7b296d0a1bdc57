"""Picks with counts of their own: two bounds on two scores (MustDrop), and what room they get."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from llm_reference import Prompt, maps
from oracles.basics import ranking, top
from pruning_support import LAYERS, Sample, inputs, model, single

from autoprune.models.family import geometry_of
from autoprune.policy.budget import lengths
from autoprune.policy.canonical import from_json, resolve, to_json
from autoprune.policy.document import Policy
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.counting import granted
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.record import Run
from autoprune.pruning.refusals import refusals
from autoprune.pruning.session import Session

PARTS = RegisteredParts()
SAMPLES = (Sample(7), Sample(12), Sample(9))
SUMMED = {"llm_attention": {"layer": "prev", "from": "text"}}
PEAK = {"llm_attention": {"layer": "prev", "from": "text", "rows": "max"}}


def two_bounds(share: float, peak: float, **more: Any) -> dict[str, Any]:
    """MustDrop in the language model: a token stays that has a share of the words' attention, or much from one."""
    second = {"threshold": {"above": peak, "of": "value", "least": 0}}
    keep = {"rule": {"threshold": {"above": share, "of": "sum"}}, **more}
    return {"at": "llm:2", "keep": keep, "pick": [{"share": "1/2", "score": SUMMED}, {"score": PEAK, "count": second}]}


def bound(stage: dict[str, Any]) -> ResolvedPolicy:
    policy = Policy.parse({"schema": "autoprune/policy/1", "stages": [stage]}, PARTS)
    assert Policy.parse(policy.dump(), PARTS) == policy
    resolved = resolve(policy, geometry_of(model().config.to_dict()), PARTS)
    assert from_json(to_json(resolved)) == resolved
    return resolved


def run(stage: dict[str, Any], batch: dict[str, torch.Tensor]) -> Run:
    with Session(model(), bound(stage)) as session, torch.no_grad():
        model()(**batch, use_cache=False)
        return session.run


def looked_at(alone: dict[str, torch.Tensor]) -> tuple[list[float], list[float]]:
    """Each visual token's attention from the words in layer 1: summed, and the most from one word."""
    prompt, heads = Prompt(alone), maps(alone, 1)
    rows = [[sum(h[q][k] for h in heads) / len(heads) for k in prompt.visual] for q in prompt.text]
    columns = list(zip(*rows, strict=True))
    return [sum(c) for c in columns], [max(c) for c in columns]


def between(values: list[float], rank: int) -> float:
    """A bound that exactly so many values reach."""
    ordered = sorted(values, reverse=True)
    return (ordered[rank - 1] + ordered[rank]) / 2


@pytest.mark.parametrize(("first", "second"), [(8, 6), (9, 4), (5, 5)])
def test_what_passes_either_bound_stays(first: int, second: int) -> None:
    batch, apart = inputs(model(), SAMPLES), 0
    for i in range(len(SAMPLES)):
        alone = single(batch, SAMPLES, i)
        summed, peak = looked_at(alone)
        share, most = between(summed, first) / sum(summed), between(peak, second)
        expected = [v for v in range(36) if summed[v] >= share * sum(summed) or peak[v] >= most]
        stage = two_bounds(share, most)
        assert run(stage, alone).kept(2, 0) == expected
        together = run(stage, batch)
        for b in range(len(SAMPLES)):
            of_one = run(stage, single(batch, SAMPLES, b))
            assert together.kept(2, b) == of_one.kept(2, 0)
            decided = [together.lengths[2][b]]
            assert lengths(bound(stage), 36, 0, decided) == tuple(layer[b] for layer in together.lengths)
        apart += len(expected) > max(first, second)
    assert apart  # neither bound alone says it


def test_a_second_bound_that_nothing_reaches_adds_nothing() -> None:
    alone = single(inputs(model(), SAMPLES), SAMPLES, 1)
    summed, _ = looked_at(alone)
    stage = two_bounds(between(summed, 6) / sum(summed), 2.0)
    assert run(stage, alone).kept(2, 0) == sorted(top(summed, 6))


def test_bounds_of_the_count_cut_later_picks_first_and_fill_the_last() -> None:
    alone = single(inputs(model(), SAMPLES), SAMPLES, 2)
    summed, peak = looked_at(alone)
    share, most = between(summed, 6) / sum(summed), between(peak, 12)
    best = ranking(summed)[:6]
    behind = [v for v in ranking(peak) if v not in best]
    for bounds, kept in (
        ({"most": "1/9"}, best[:4]),
        ({"most": "2/9"}, [*best, *behind[:2]]),
        ({"least": "1/2"}, [*best, *behind[:12]]),
    ):
        assert run(two_bounds(share, most, **bounds), alone).kept(2, 0) == sorted(kept)


def test_protected_tokens_come_on_top_and_a_fixed_count_is_split_by_shares() -> None:
    alone = single(inputs(model(), SAMPLES), SAMPLES, 0)
    summed, peak = looked_at(alone)
    worst = min(range(36), key=lambda v: summed[v])
    share = between(summed, 6) / sum(summed)
    stage, others = two_bounds(share, 2.0), sum(summed) - summed[worst]
    held = run({**stage, "protect": {"index": [worst]}}, alone)
    assert held.kept(2, 0) == [v for v in range(36) if v == worst or summed[v] >= share * others]
    fixed = run({**stage, "keep": {**stage["keep"], "fit": "1/3"}}, alone)
    first = top(summed, 6)
    left = [v for v in range(36) if v not in first]
    assert fixed.kept(2, 0) == sorted([*first, *(left[p] for p in top([peak[v] for v in left], 6))])
    assert len(fixed.lengths) == LAYERS


@pytest.mark.parametrize(
    ("lacking", "path"),
    [
        ("feature_norm", ("pick", 1, "score")),
        ("elbow", ("pick", 1, "count")),
        ("threshold", ("keep", "rule")),
        ("stride", ("pick", 1, "select")),
    ],
)
def test_what_a_model_lacks_is_said_at_its_place(lacking: str, path: tuple[str | int, ...]) -> None:
    second = {"score": "feature_norm", "select": "stride", "count": "elbow"}
    stage = {"at": "llm:2", "keep": {"rule": "threshold"}, "pick": [{"share": "1/2", "score": SUMMED}, second]}
    policy = Policy.parse({"schema": "autoprune/policy/1", "stages": [stage]}, PARTS)
    geometry = replace(geometry_of(model().config.to_dict()), lacks={lacking: f"no {lacking} here"})
    assert [(p.path, p.message) for p in refusals(policy, geometry)] == [(("stages", 0, *path), f"no {lacking} here")]


@pytest.mark.parametrize(
    ("counts", "room", "expected"),
    [
        ([3, 2, 4], 9, [3, 2, 4]),
        ([3, 2, 4], 6, [3, 2, 1]),
        ([3, 2, 4], 2, [2, 0, 0]),
        ([3, 2, 4], 12, [3, 2, 7]),
        ([-1, 5], 0, [0, 0]),
        ([4], 2, [2]),
    ],
)
def test_who_goes_short(counts: list[int], room: int, expected: list[int]) -> None:
    assert granted(counts, room) == expected
