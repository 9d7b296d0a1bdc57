"""Counts that the sample decides: each rule against plain loops, and what the engine makes of them."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from llm_reference import Prompt, maps
from oracles import counts as oracle
from part_worlds import COUNTS, RANDOM, World, layout, plan_stage
from pruning_support import LAYERS, Sample, generate, inputs, model, policy, single, stage

from autoprune.errors import BadInput
from autoprune.policy.budget import counts, lengths
from autoprune.policy.canonical import from_json, to_json
from autoprune.policy.resolved import Keep, Part, ResolvedPolicy, ResolvedStage
from autoprune.pruning import parts
from autoprune.pruning.grouping import shared_by_rule
from autoprune.pruning.plan import Use
from autoprune.pruning.session import Session

SAMPLES = (Sample(7), Sample(12), Sample(9))
NORM: tuple[str, dict[str, Any]] = ("feature_norm", {"space": "hidden"})


def find(name: str, **params: Any) -> Use:
    info = parts.find("count", name)
    assert info is not None
    config: Any = info.config.model_validate(params)
    return Use(info.run, config)


def counted(use: Use, rows: list[list[float]], candidates: list[list[bool]] | None = None) -> list[int]:
    """The rule on padded rows; padding holds NaN."""
    width = max(map(len, rows))
    scores = torch.full((len(rows), width), float("nan"))
    among = torch.zeros(len(rows), width, dtype=torch.bool)
    for b, row in enumerate(rows):
        scores[b, : len(row)] = torch.tensor(row)
        among[b, : len(row)] = torch.tensor(candidates[b]) if candidates else True
    planned = plan_stage(RANDOM)
    assert planned is not None
    view = replace(World([0]).view(planned), unpruned=torch.tensor([len(row) for row in rows]))
    return [int(c) for c in use.run(view, scores, among, use.config).tolist()]


def samples(seed: int) -> list[list[float]]:
    """Rows of different lengths, a few scores far above the others."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for n in (30, 17, 48, 5, 1):
        row = torch.rand(n, generator=generator).double()
        row[torch.randint(0, n, (max(1, n // 9),), generator=generator)] += 3 * torch.rand(1, generator=generator)
        rows.append(row.float().tolist())
    return rows


@pytest.mark.parametrize("seed", range(6))
def test_rules_are_the_formulas(seed: int) -> None:
    rows = samples(seed)
    assert counted(find("outlier"), rows) == [max(1, oracle.iqr_outliers(r)) for r in rows]
    four = [max(1, math.floor(4 * oracle.iqr_outliers(r) + 0.5)) for r in rows]
    assert counted(find("outlier", times=4), rows) == [min(c, len(r)) for c, r in zip(four, rows, strict=True)]
    more = [max(1, oracle.iqr_outliers(r) + 1) for r in rows]
    assert counted(find("outlier", more=1), rows) == [min(c, len(r)) for c, r in zip(more, rows, strict=True)]
    for k in (3, 20):
        expected = [max(1, oracle.lof_outliers(r, k)) for r in rows]
        assert counted(find("outlier", method="lof", neighbours=k), rows) == expected
    assert counted(find("elbow"), rows) == [oracle.elbow(r) for r in rows]
    assert counted(find("threshold", above=0.7, of="value"), rows) == [max(1, sum(s >= 0.7 for s in r)) for r in rows]
    mean = [max(1, sum(s >= 1.5 * sum(r) / len(r) for s in r)) for r in rows]
    assert counted(find("threshold", above=1.5, of="mean"), rows) == mean
    for rounds in (1, 4):
        kept = [len(r) - oracle.flowcut_drop(r, max(1, math.floor(len(r) / 4 + 0.5)), rounds) for r in rows]
        assert counted(find("entropy", target="1/4", rounds=rounds), rows) == kept


def test_protected_tokens_do_not_count_and_nan_is_no_score() -> None:
    row = [5.0, 0.1, float("nan"), 0.2, 6.0, 0.15]
    assert counted(find("threshold", above=1, of="value"), [row], [[True, True, True, True, False, True]]) == [1]


def test_one_rule_in_every_group() -> None:
    """`split: rule`: every row of the grid decides for itself, and the counts share out what the stage keeps."""
    group = parts.find("group", "row")
    planned = plan_stage(RANDOM)
    assert group is not None
    assert planned is not None
    config: Any = group.config.model_validate({"split": "rule"})
    world = World([0, 1, 2])
    view, scores = world.view(planned, protect=False), world.values("scores", ())
    found = shared_by_rule(find("elbow"), Use(group.run, config), view, scores, view.candidates)
    for b, n in enumerate(COUNTS):
        rows = layout(n).row.tolist()
        for g in range(found.shape[1]):
            own = [float(scores[b, v]) for v in range(n) if rows[v] == g]
            assert int(found[b, g]) == (oracle.elbow(own) if own else 0)


def ruled(
    layer: int, name: str, params: dict[str, Any], most: str = "1", least: str = "0", **more: Any
) -> ResolvedStage:
    info = parts.find("count", name)
    assert info is not None
    rule = Part(name, info.config.model_validate(params).model_dump(mode="json", by_alias=True))
    made = stage(layer, most, NORM, **more)
    return replace(made, keep=Keep("rule", Fraction(most), rule, Fraction(least)))


def run(resolved: ResolvedPolicy, batch: dict[str, torch.Tensor]) -> Any:
    made = model()
    with Session(made, resolved) as session, torch.no_grad():
        logits = made(**batch, use_cache=False).logits
        return session.run, logits


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("elbow", {}),
        ("outlier", {"times": 3}),
        ("threshold", {"above": 1.02, "of": "mean"}),
        ("entropy", {"target": 0.2, "rounds": 1}),
        ("rank", {"from": "text"}),
        ("gate", {"below": 0.5}),
    ],
)
def test_a_batch_counts_like_its_samples(name: str, params: dict[str, Any]) -> None:
    batch = inputs(model(), SAMPLES)
    resolved = policy(ruled(2, name, params), stage(4, "1/2", kind="of_current"))
    together, _ = run(resolved, batch)
    for i in range(len(SAMPLES)):
        alone, _ = run(resolved, single(batch, SAMPLES, i))
        assert [c[0] for c in alone.counts] == [c[i] for c in together.counts]
        assert alone.kept(5, 0) == together.kept(5, i)
        decided = tuple(c[i] for c in together.counts)
        assert lengths(resolved, 36, 0, decided) == tuple(layer[i] for layer in together.lengths)
    assert any(len(set(c)) > 1 or c[0] < 36 for c in together.counts)
    assert from_json(to_json(resolved)) == resolved


def test_bounds_hold_and_a_later_budget_is_met_exactly() -> None:
    """Whatever a rule decides, `to_budget` after it reaches the most tokens that the budget allows."""
    batch = inputs(model(), SAMPLES)
    low, _ = run(policy(ruled(1, "threshold", {"above": 1e9, "of": "value"}, least="1/6")), batch)
    assert low.counts == [[6, 6, 6]]
    high, _ = run(policy(ruled(1, "threshold", {"above": 0}, most="1/3")), batch)
    assert high.counts == [[12, 12, 12]]
    budget = Fraction(2, 5)
    resolved = policy(ruled(1, "threshold", {"above": 1, "of": "mean"}), stage(4, budget, kind="to_budget"))
    found, _ = run(resolved, batch)
    assert len(set(found.counts[0])) > 1
    for i in range(len(SAMPLES)):
        first, last = found.counts[0][i], found.counts[1][i]
        spent = 36 + 3 * first + 2 * last
        assert spent <= budget * LAYERS * 36
        assert last == first or spent + 2 > budget * LAYERS * 36
    greedy = policy(ruled(1, "threshold", {"above": 0}), stage(4, budget, kind="to_budget"))
    assert counts(greedy, 36) == tuple(c[0] for c in run(greedy, batch)[0].counts)


def test_a_gate_drops_everything_or_nothing() -> None:
    batch = inputs(model(), SAMPLES)
    with torch.no_grad():
        plain = model()(**batch, use_cache=False).logits
    opened, logits = run(policy(ruled(3, "gate", {"below": 1e-9})), batch)
    assert opened.counts == [[36, 36, 36]]
    assert torch.equal(logits, plain)
    closed, _ = run(policy(ruled(3, "gate", {"below": 1})), batch)
    assert closed.counts == [[0, 0, 0]]
    generate(model(), batch, steps=2)


def test_a_closed_gate_drops_what_is_protected_too_and_an_open_one_does_not() -> None:
    """Where protected tokens are all that is left, and where they are not."""
    batch, listed = inputs(model(), SAMPLES), tuple(range(12))
    for before, left in ((stage(1, 12, kind="tokens", protect=listed), 12), (stage(1, 20, kind="tokens"), 20)):
        for below, kept in ((1, 0), (1e-9, left)):
            gate = replace(ruled(2, "gate", {"below": below}), protect=listed)
            assert run(policy(before, gate), batch)[0].counts == [[left] * 3, [kept] * 3]


def test_gate_and_rank_read_the_models_attention() -> None:
    batch = inputs(model(), SAMPLES)
    for i in range(len(SAMPLES)):
        alone = single(batch, SAMPLES, i)
        prompt, heads = Prompt(alone), maps(alone, 1)
        rows = [[sum(h[q][k] for h in heads) / len(heads) for k in prompt.visual] for q in prompt.text]
        share = sum(map(sum, rows)) / len(rows)
        for below, kept in ((share * 1.01, 0), (share * 0.99, 36)):
            found, _ = run(policy(ruled(2, "gate", {"below": below, "look": "text_to_vision"})), alone)
            assert found.counts == [[kept]]
        back = [[sum(h[q][k] for h in heads) / len(heads) for k in prompt.all] for q in prompt.visual]
        outside = [k for k in prompt.all if k not in prompt.visual]
        share = sum(sum(row[k] for k in outside) for row in back) / len(back)
        for below, kept in ((share * 1.01, 0), (share * 0.99, 36)):
            found, _ = run(policy(ruled(2, "gate", {"below": below, "look": "vision_to_text"})), alone)
            assert found.counts == [[kept]]
        found, _ = run(policy(ruled(2, "rank", {"from": "text", "tolerance": 1e-5})), alone)
        assert found.counts == [[oracle.matrix_rank(torch.tensor(rows).double().numpy(), 1e-7)]]


def test_a_rule_that_keeps_all_leaves_the_run_as_it_is() -> None:
    batch = inputs(model(), SAMPLES)
    with torch.no_grad():
        plain = model()(**batch, use_cache=False).logits
    found, logits = run(policy(ruled(0, "threshold", {"above": 0})), batch)
    assert found.budget().mean == 1
    assert torch.equal(logits, plain)


@pytest.mark.parametrize("name", [n for n in parts.names("count") if n != "logistic"])
def test_where_everything_is_protected_a_rule_has_nothing_to_decide(name: str) -> None:
    batch, before = inputs(model(), SAMPLES), stage(1, 12, kind="tokens", protect=tuple(range(12)))
    resolved = policy(before, replace(ruled(2, name, {}), protect=tuple(range(12))))
    assert run(resolved, batch)[0].counts == [[12, 12, 12], [12, 12, 12]]


def test_generation_after_a_rule() -> None:
    batch = inputs(model(), SAMPLES)
    resolved = policy(ruled(2, "elbow", {}))
    with Session(model(), resolved) as session:
        together = generate(model(), batch, steps=4).sequences[:, -4:]
        assert len(set(session.run.counts[0])) > 1
        for i in range(len(SAMPLES)):
            alone = generate(model(), single(batch, SAMPLES, i), steps=4).sequences[:, -4:]
            assert torch.equal(together[i], alone[0])


def test_rules_that_read_rows_have_no_place_before_the_model() -> None:
    with pytest.raises(BadInput, match="prev' cannot be used at llm:0"):
        Session(model(), policy(ruled(0, "gate", {})))
