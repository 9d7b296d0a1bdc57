"""The same stage before several layers, and a budget that layers share as the sample's mutual information says."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from llm_reference import Prompt, maps
from pruning_support import LAYERS, Sample, inputs, model, single
from tiny_families import TINY
from tiny_families import model as tiny_model
from tiny_families import together as joined

from autoprune.errors import BadInput
from autoprune.models.family import geometry_of
from autoprune.policy.budget import Infeasible, counts, lengths
from autoprune.policy.canonical import from_json, resolve, to_json
from autoprune.policy.document import Policy
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.policy.retention import retained
from autoprune.policy.scale import at_budget
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.session import Session

PARTS = RegisteredParts()
HALF = Fraction(1, 2)
SAMPLES = (Sample(7), Sample(12), Sample(9))
TEXT = {"llm_attention": {"layer": "prev", "from": "text"}}


def document(*stages: dict[str, Any]) -> Policy:
    return Policy.parse({"schema": "autoprune/policy/1", "stages": list(stages)}, PARTS)


def bound(policy: Policy, tokens: int | None = None) -> ResolvedPolicy:
    resolved = resolve(policy, geometry_of(model().config.to_dict()), PARTS, tokens)
    assert from_json(to_json(resolved)) == resolved
    return resolved


def shared(budget: float | str, last: int = LAYERS - 1, **logistic: Any) -> dict[str, Any]:
    rule = {"slope": 8, "mid": 0.4, **logistic}
    return {"along": [2, last], "keep": {"rule": {"logistic": rule}, "fit": {"to_budget": budget}}, "score": TEXT}


def run(resolved: ResolvedPolicy, batch: dict[str, torch.Tensor]) -> Any:
    with Session(model(), resolved) as session, torch.no_grad():
        model()(**batch, use_cache=False)
        return session.run


def bits(batch: dict[str, torch.Tensor], layer: int, smoothing: float) -> float:
    """By loops over one prompt: Σ over heads, words and visual tokens of a/R · log2(a / (mean over words + R·t))."""
    prompt, total = Prompt(batch), 0.0
    words = prompt.text
    for head in maps(batch, layer):
        for column in prompt.visual:
            mean = sum(head[w][column] for w in words) / len(words)
            for w in words:
                total += head[w][column] / len(words) * math.log2(head[w][column] / (mean + len(words) * smoothing))
    return total


@pytest.mark.parametrize("smoothing", [0.0, 1e-4])
def test_a_budget_is_shared_as_the_mutual_information_says(smoothing: float) -> None:
    batch, depth, budget, n = inputs(model(), SAMPLES), LAYERS, 0.5, 36
    per_bit, found = 100.0, []
    resolved = bound(document(shared(budget, slope=12, per_bit=per_bit, lag=0.01, most=0.9, smoothing=smoothing)))
    together = run(resolved, batch)
    for i in range(len(SAMPLES)):
        alone = single(batch, SAMPLES, i)
        slope = max(0.0, 12 - per_bit * bits(alone, 1, smoothing))
        places = [(layer - 2) / (depth - 3) for layer in range(2, depth)]
        shape = [1 / (1 + math.exp(slope * (x - 0.4 - 0.01 * slope))) for x in places]
        left = int(budget * depth * n) - 2 * n
        expected = retained(shape, [1] * len(shape), left, round(0.9 * n))
        found.append([c[i] for c in together.counts])
        assert found[-1] == list(expected)
        assert [c[0] for c in run(resolved, alone).counts] == found[-1]
        assert 2 * n + sum(found[-1]) == int(budget * depth * n)
        assert lengths(resolved, n, 0, found[-1]) == tuple(layer[i] for layer in together.lengths)
    assert len({tuple(c) for c in found}) > 1  # samples have curves of their own


def test_without_information_all_samples_fall_alike() -> None:
    batch = inputs(model(), SAMPLES)
    found = run(bound(document(shared("2/5", most=1))), batch).counts
    assert all(len(set(c)) == 1 for c in found)
    assert found[0][0] > 2 * found[-1][0]


@pytest.mark.parametrize("per_bit", [0, 100])
@pytest.mark.parametrize("name", ["llava_next", "qwen2_5_vl"])
def test_newlines_are_part_of_what_layers_share(name: str, per_bit: int) -> None:
    """Every sample meets the budget, never below its newlines, alone as in a batch; several images, and none."""
    made, rows, budget = tiny_model(name), TINY[name].rows(TINY[name].odd), HALF
    policy = document(shared("1/2", slope=12, per_bit=per_bit, most=1))
    resolved = resolve(policy, geometry_of(made.config.to_dict()), PARTS)

    def prefill(batch: dict[str, torch.Tensor]) -> Any:
        with Session(made, resolved) as session, torch.no_grad():
            made(**batch, use_cache=False)
            return session.run

    together, heights = prefill(joined(rows)), [1 / (1 + math.exp(12 * (x / 3 - 0.4))) for x in range(4)]
    for i, n in enumerate(together.n):
        found = [c[i] for c in together.counts]
        if not n:
            assert found == [0] * 4
            continue
        alone = prefill(joined([rows[i]]))
        assert [c[0] for c in alone.counts] == found
        separators = int(newlines(made, rows[i]))
        assert min(found) >= max(separators, 1)
        assert (separators > 0) == (name == "llava_next")
        assert 2 * n + sum(found) == int(budget * LAYERS * n)
        if not per_bit:
            left = int(budget * LAYERS * n) - 2 * n
            assert found == list(retained(heights, [1] * 4, left, n, max(separators, 1)))
        assert together.kept(LAYERS - 1, i) == alone.kept(LAYERS - 1, 0)
    assert any(len(set(c[i] for c in together.counts)) > 1 for i in range(len(rows)))


def newlines(made: Any, row: Any) -> int:
    """Rows of a LLaVA-NeXT's high-resolution part: one ends in each."""
    if "image_sizes" not in row.vision:
        return 0
    return sum(high // 8 for high, _ in row.vision["image_sizes"].tolist())


def test_counts_that_no_run_decided_spend_the_budget_evenly() -> None:
    resolved = bound(document({"at": "llm:1", "keep": "1/2", "score": TEXT}, shared("2/5")))
    found = counts(resolved, 36)
    assert resolved.adaptive
    assert found[0] == 18
    assert max(found[1:]) - min(found[1:]) <= 1
    assert sum(lengths(resolved, 36)) == int(LAYERS * 36 * 2 / 5)
    with pytest.raises(Infeasible):
        counts(bound(document(shared("1/3"))), 36)
    short = bound(document(shared("2/5", last=3)))
    assert sum(lengths(short, 36)) <= LAYERS * 36 * 2 / 5 < sum(lengths(short, 36)) + LAYERS - 3


def test_the_same_stage_before_every_layer() -> None:
    policy = document({"along": ["1/3", LAYERS - 1], "keep": {"of_current": "3/4"}, "score": TEXT})
    assert Policy.parse(policy.dump()) == policy
    assert policy.dump()["stages"][0]["along"] == ["1/3", LAYERS - 1]
    resolved = bound(policy, 36)
    assert [s.layer for s in resolved.stages] == [2, 3, 4, 5]
    assert counts(resolved, 36) == (27, 20, 15, 11)
    assert [s.picks[0].score.params["layer"] for s in resolved.stages] == [1, 2, 3, 4]  # type: ignore[union-attr]
    assert [c[0] for c in run(resolved, inputs(model(), SAMPLES)).counts] == [27, 20, 15, 11]


def test_a_rule_before_every_layer_and_its_last_word_at_a_budget() -> None:
    rule = {"rule": {"threshold": {"above": 1, "of": "mean"}}}
    policy = document({"along": [2, 4], "keep": rule, "score": TEXT})
    batch = inputs(model(), SAMPLES)
    found = run(bound(policy), batch).counts
    assert len(found) == 3
    assert all(0 < b < a for column in zip(*found, strict=True) for a, b in pairwise((36, *column)))
    scaled = at_budget(policy, HALF, geometry_of(model().config.to_dict()))
    stages = [{k: s[k] for k in ("at", "along", "keep") if k in s} for s in scaled.dump()["stages"]]
    assert stages[0] == {"along": [2, 3], "keep": {"rule": {"threshold": {"above": 1, "of": "mean"}}}}
    assert stages[1]["at"] == "llm:4"
    for i, column in enumerate(zip(*run(bound(scaled), batch).lengths, strict=True)):
        assert sum(column) <= LAYERS * 36 * HALF, i


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"along": [2, 4], "keep": 0.5, "select": "stride"}, "before every layer of `along` the keep is one of"),
        ({"along": [2, 4], "keep": {"to_budget": 0.5}, "select": "stride"}, "the keep is one of"),
        ({"along": [4, 2], "keep": {"of_current": 0.5}, "select": "stride"}, "from shallow to deep"),
        ({"along": [2, 4], "at": "llm:2", "keep": {"of_current": 0.5}, "select": "stride"}, "unknown key 'at'"),
    ],
)
def test_what_stands_before_several_layers(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        document(stage)


def test_a_rule_that_shares_needs_layers_and_only_such_a_rule_can() -> None:
    for given in ({}, {"along": [2, 4]}):
        rule = {"logistic": {"slope": 8, **given}}
        for keep in ({"rule": rule}, {"rule": rule, "fit": {"to_budget": 0.5}}):
            with pytest.raises(BadInput, match="rule logistic shares a budget among layers: write `along"):
                document({"at": "llm:2", "keep": keep, "score": TEXT})
    with pytest.raises(BadInput, match="`along` stands on the stage"):
        document(shared(0.5, along=[2, 4]))
    other = {"along": [2, 4], "keep": {"rule": "elbow", "fit": {"to_budget": 0.5}}, "score": TEXT}
    with pytest.raises(BadInput, match="elbow does not share a budget among layers; rules that do: logistic"):
        document(other)
    deep = document({**shared(0.9), "along": [2, LAYERS]})
    with pytest.raises(BadInput, match="beyond the model"):
        bound(deep)
