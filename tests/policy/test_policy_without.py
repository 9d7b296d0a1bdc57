"""A policy without one stage: what the others keep stays what it was."""

from __future__ import annotations

from typing import Any

import pytest
from policy_fakes import geometry

from autoprune.policy import canonical
from autoprune.policy.budget import counts
from autoprune.policy.document import Policy
from autoprune.policy.without import fix_counts, without_stages
from autoprune.pruning.lookup import RegisteredParts

PARTS = RegisteredParts()

LAST = {"llm_attention": {"from": "last"}}
SPARSE: list[dict[str, Any]] = [
    {"at": "projector", "keep": "1/2", "score": "feature_norm"},
    {"at": "llm:3", "keep": {"of_current": "1/2"}, "score": LAST},
    {"at": "llm:6", "keep": {"to_budget": "0.3"}, "score": LAST},
]
CURVE = {"along": [2, 8], "curve": {"geometric": {"ratio": {"to_budget": 0.5}, "every": 2}}, "score": LAST}


def policy(*stages: dict[str, Any]) -> Policy:
    return Policy.parse({"schema": "autoprune/policy/1", "name": "p", "stages": list(stages)}, PARTS)


def kept(made: Policy, tokens: int | None) -> dict[int, int]:
    """Counts of an image of 64 tokens by layer."""
    resolved = canonical.resolve(made, geometry(12, tokens), PARTS, tokens)
    return {s.layer: k for s, k in zip(resolved.stages, counts(resolved, 64), strict=True)}


@pytest.mark.parametrize("tokens", [64, None])
@pytest.mark.parametrize("stages", [SPARSE, [CURVE], [SPARSE[0], CURVE]], ids=["stages", "curve", "both"])
def test_fixing_counts_changes_no_count(stages: list[dict[str, Any]], tokens: int | None) -> None:
    whole = policy(*stages)
    fixed = fix_counts(whole, 12, tokens)
    before, after = kept(whole, tokens), kept(fixed, tokens)
    assert before.keys() == after.keys()
    assert all(abs(before[layer] - after[layer]) <= (0 if tokens else 1) for layer in before)
    assert Policy.parse(fixed.dump(), PARTS) == fixed, "a document like any other"


def test_the_others_keep_what_they_kept() -> None:
    whole = kept(policy(*SPARSE), 64)
    rest = without_stages(policy(*SPARSE), 12, 64)
    assert [kept(p, 64) for p in rest] == [{k: v for k, v in whole.items() if k != layer} for layer in (0, 3, 6)]
    assert len(without_stages(policy(CURVE), 12, 64)) == 1, "a curve is one stage"
    assert without_stages(policy(CURVE), 12, 64)[0].stages == ()


def test_where_a_rule_decides_nothing_is_fixed() -> None:
    ruled = policy(
        {"at": "projector", "keep": {"rule": "outlier", "most": "1/2"}, "score": "feature_norm"}, *SPARSE[2:]
    )
    assert fix_counts(ruled, 12, 64) == ruled
    assert len(without_stages(ruled, 12, 64)) == 2


@pytest.mark.parametrize("tokens", [64, None])
def test_what_drops_nothing_does_not_begin_to(tokens: int | None) -> None:
    met = {"at": "llm:3", "keep": {"to_budget": "0.9"}, "score": LAST}
    assert next(p.stages for p in without_stages(policy(SPARSE[0], met), 12, tokens)) == ()
