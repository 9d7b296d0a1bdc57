"""LLaVA-OneVision, InternVL, Gemma 3 and Qwen-VL through the same engine."""

from __future__ import annotations

from typing import Any

import pytest
from family_checks import (
    check_a_batch_is_its_samples,
    check_a_forced_pass_is_the_generation,
    check_detaching_restores_the_model,
    check_dropping_is_masking,
    check_keeping_everything,
    check_later_turns,
    check_the_budget_is_what_the_layers_saw,
)
from pruning_support import policy, stage
from tiny_families import TINY

from autoprune.policy.resolved import ResolvedPolicy

OWN_TEXT = ("llm_attention", {"layer": "own", "from": "text"})
ENCODER = ("feature_norm", {"space": "encoder"})
POLICIES = {
    "input": policy(stage(0, "1/2", ENCODER)),
    "inside": policy(stage(2, "1/2", "llm_attention"), stage(4, "1/4", OWN_TEXT)),
    "mixed": policy(
        stage(0, "2/3", None, "far", site="projector"), stage(3, "1/5", ("feature_norm", {"space": "keys"}))
    ),
    "drop all": policy(stage(2, 0, None, "stride")),
}
BEAMS = policy(stage(0, "1/2", ENCODER), stage(3, "1/4", ("llm_attention", {"from": "text"})))
VARIANTS = ("gemma3_untyped", "internvl_llama", "internvl_qwen3")  # without image types, with other decoders
LLAVA = ("llava", "llava_next")  # in test_pruning_equivalence.py and its neighbours
FAMILIES = tuple(name for name in TINY if name not in (*VARIANTS, *LLAVA))
KEEPS = ("gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")  # no single position per token: `compact` is refused
# The default run sees every policy and every family; the whole matrix is `full`.
CASES = [
    pytest.param(
        n,
        a,
        p,
        marks=() if a == "sdpa" and (p == "mixed" or n in ("gemma3", "qwen2_5_vl", "qwen3_vl")) else pytest.mark.full,
    )
    for n in FAMILIES
    for a in ("sdpa", "eager")
    for p in POLICIES
]


def merged(name: str) -> ResolvedPolicy:
    """Merging, and new positions where the family can have them."""
    positions = "keep" if name in KEEPS else "compact"
    return policy(stage(1, "1/2", "random", merge="nearest", positions=positions), stage(3, "1/4", "llm_attention"))


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.full)])
@pytest.mark.parametrize("name", FAMILIES)
def test_keeping_everything_is_the_untouched_model(name: str, attention: str) -> None:
    everything = policy(stage(0, 1, "random", merge="nearest"), stage(3, 1, OWN_TEXT, merge="residual"))
    check_keeping_everything(name, attention, everything)


@pytest.mark.parametrize(("name", "attention", "which"), CASES)
def test_dropping_is_masking_those_keys(name: str, attention: str, which: str) -> None:
    check_dropping_is_masking(name, attention, POLICIES[which], steps=4)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_drop_and_batch_alike(name: str) -> None:
    check_dropping_is_masking(name, "sdpa", POLICIES["inside"], steps=4)
    check_a_batch_is_its_samples(name, "sdpa", POLICIES["mixed"], TINY[name].odd)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_repeated_samples_keep_their_images_facts(name: str, options: dict[str, Any]) -> None:
    check_dropping_is_masking(name, "sdpa", BEAMS, steps=4, **options)


@pytest.mark.parametrize(("name", "attention", "which"), CASES)
def test_a_batch_is_its_samples(name: str, attention: str, which: str) -> None:
    check_a_batch_is_its_samples(name, attention, POLICIES[which], TINY[name].ragged)
    check_a_batch_is_its_samples(name, attention, POLICIES[which], TINY[name].odd)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_merged_batch_is_its_samples(name: str) -> None:
    check_a_batch_is_its_samples(name, "sdpa", merged(name), TINY[name].odd)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_budget_is_what_the_layers_saw(name: str) -> None:
    check_the_budget_is_what_the_layers_saw(name, BEAMS)


@pytest.mark.parametrize("name", FAMILIES)
def test_detaching_restores_the_model(name: str) -> None:
    check_detaching_restores_the_model(name, BEAMS)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_forced_pass_is_the_generation(name: str) -> None:
    check_a_forced_pass_is_the_generation(name, POLICIES["inside"])


@pytest.mark.parametrize("name", [n for n in FAMILIES if not n.startswith("qwen")])  # theirs count turns in generate()
def test_later_turns_see_what_is_left(name: str) -> None:
    check_later_turns(name, BEAMS)
