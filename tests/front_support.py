"""A small front with everything a registered version has: one undecided member, three certified ones."""

from __future__ import annotations

from typing import Any

from autoprune.policy.document import Policy
from autoprune.policy.front import Estimate, Front, Member
from autoprune.pruning.loaded import LoadedPolicy
from autoprune.pruning.lookup import RegisteredParts

CONSTRAINT = "exact_match >= 0.9 * baseline"


def member(name: str, keep: str, budget: float, accuracy: float, proven: float, selected: bool = False) -> Member:
    document: dict[str, Any] = {
        "schema": "autoprune/policy/1",
        "name": name,
        "stages": [{"at": "llm:1", "keep": keep, "score": {"llm_attention": {"from": "last"}}}],
    }
    state = "certified" if proven >= 0.9 else "undecided"
    return Member(
        name=name,
        policy=document,
        digest=f"{name:x<64}",
        budget=budget,
        search={"exact_match": accuracy},
        holdout={
            "exact_match": Estimate(accuracy, accuracy - 0.02, accuracy + 0.02),
            "kv_bytes": Estimate(1000 * budget, 1000 * budget, 1000 * budget),
        },
        constraints={CONSTRAINT: state},
        certifiable={CONSTRAINT: proven},
        selected=selected,
    )


def front() -> Front:
    """Dearest first, as a search writes it."""
    return Front(
        study="demo-0123",
        baseline={"exact_match": Estimate(0.96, 0.94, 0.98), "kv_bytes": Estimate(1000.0, 1000.0, 1000.0)},
        members=(
            member("gentle", "3/4", 0.75, 0.96, 0.99),
            member("middle", "1/2", 0.5, 0.95, 0.95),
            member("strong", "1/4", 0.25, 0.92, 0.91, selected=True),
            member("harsh", "1/8", 0.125, 0.9, 0.85),
        ),
        trials={},
    )


def published() -> LoadedPolicy:
    """The selected member of that front, as it is loaded from a registered version."""
    whole = front()
    chosen = whole.selected
    assert chosen is not None
    assert chosen.policy is not None
    policy = Policy.parse(chosen.policy, RegisteredParts())
    return LoadedPolicy(policy, None, {**chosen.measured(), "study": whole.study}, whole=whole)
