"""Timings are ratios with a spread, taken side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from autoprune.errors import BadInput
from autoprune.measures.latency import Spread, _in_turn, undecided
from autoprune.policy.budget import lengths
from autoprune.policy.canonical import to_json
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.ports import EvalRequest, MeasureRequest

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


def test_a_latency_is_a_ratio_without_samples(tiny: Any) -> None:
    made = tiny.build(MeasureRequest("prefill_latency", {"records": 4, "rounds": 3}), "answer_nll")
    runs = []
    layer = made.loaded.family.places(made.loaded.model).layers[0]
    hook = layer.register_forward_hook(lambda module, given, out: runs.append(len(out)))
    found = made.evaluate(EvalRequest(to_json(POLICY), "search", ("prefill_latency",)))
    assert runs == [4] * (2 * (1 + 3))  # both once to warm up, and in each round, as one batch
    assert found.values["prefill_latency"] > 0
    assert found.samples == {}
    assert made.evaluate(EvalRequest(None, "search", ("prefill_latency",))).values == {"prefill_latency": 1.0}
    assert len(runs) == 8
    hook.remove()


def test_rounds_run_in_turn_and_the_first_is_not_counted() -> None:
    ran: list[str] = []

    def runner(name: str) -> Callable[[], float]:
        def run() -> float:
            ran.append(name)
            return float(len(ran))

        return run

    taken = _in_turn({"a": runner("a"), "b": runner("b")}, 5, seed=0)
    assert ran[:2] == ["a", "b"]
    assert all(sorted(ran[i : i + 2]) == ["a", "b"] for i in range(2, 12, 2))
    assert {tuple(ran[i : i + 2]) for i in range(2, 12, 2)} == {("a", "b"), ("b", "a")}
    assert sorted([*taken["a"], *taken["b"]]) == [float(i) for i in range(3, 13)]
