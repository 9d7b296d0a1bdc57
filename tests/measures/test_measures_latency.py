"""Timings are ratios with a spread, taken side by side."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from autoprune.errors import BadInput
from autoprune.measures.latency import Spread, undecided
from autoprune.policy.budget import lengths
from autoprune.policy.canonical import to_json
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage

POLICY = ResolvedPolicy(
    (
        ResolvedStage(
            "llm",
            1,
            Keep("fraction", Fraction(1, 3)),
            (ResolvedPick(Part("llm_attention", {"from": "text"}), Part("top")),),
            Part("nearest", {"space": "hidden"}),
        ),
    ),
    4,
)


def test_a_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(3.0, 2.0, 4.0)


def test_the_free_choice_keeps_the_schedule(tiny: Any) -> None:
    free = undecided(POLICY)
    assert [(s.layer, s.keep) for s in free.stages] == [(1, Keep("fraction", Fraction(1, 3)))]
    assert free.stages[0].picks[0].score is None
    assert free.stages[0].merge.name == "drop"


def test_the_free_choice_brings_back_what_was_parked() -> None:
    (parked,) = POLICY.stages
    stages = (replace(parked, merge=Part("park")), replace(parked, layer=2, keep=Keep("fraction", Fraction(1))))
    policy = ResolvedPolicy((stages[0], replace(stages[1], restore="scattered")), 4)
    assert lengths(undecided(policy), 36) == lengths(policy, 36) == (36, 12, 36, 36)


def test_the_free_choice_of_a_rule_keeps_what_the_largest_sample_kept(tiny: Any) -> None:
    keep = Keep("rule", Fraction(1), Part("threshold", {"above": 1.0, "of": "mean"}))
    pick = ResolvedPick(Part("feature_norm", {"space": "hidden"}), Part("top"))
    policy = ResolvedPolicy((ResolvedStage("llm", 1, keep, (pick,), Part("drop")),), 4)
    assert undecided(policy, [[3, 7, 5]]).stages[0].keep == Keep("tokens", Fraction(7))
    timing = tiny.build("answer_nll").prefill(to_json(policy), "search", 4, 2)
    assert timing.prefill.low > 0


def test_a_timing_has_two_spreads_and_leaves_the_model_alone(tiny: Any) -> None:
    made = tiny.build("answer_nll")
    before = [name for name, _ in made.loaded.model.named_modules()]
    timing = made.prefill(to_json(POLICY), "search", 4, 3)
    for spread in (timing.prefill, timing.selection):
        assert spread.low <= spread.value <= spread.high
    assert timing.prefill.low > 0
    assert timing.selection.high < 1
    assert [name for name, _ in made.loaded.model.named_modules()] == before
    with pytest.raises(BadInput, match="at least 2 rounds"):
        made.prefill(to_json(POLICY), "search", 4, 1)
