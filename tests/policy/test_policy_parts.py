"""What documents ask of the real parts: said where it is written, and one canonical form for equal effects."""

from __future__ import annotations

from typing import Any

import pytest
from policy_fakes import geometry

from autoprune.document.yaml import parse
from autoprune.errors import BadInput
from autoprune.policy.beside import problems
from autoprune.policy.canonical import digest, resolve
from autoprune.policy.document import Policy
from autoprune.pruning.lookup import RegisteredParts

PARTS = RegisteredParts()
EACH = "{llm_attention: {heads: each}}"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("score: «relevance", "criterion 'relevance' is for diagnostics"),
        ("score: {mix: {weights: {«apart: 1, random: 1}}}", "apart: `heads: each` cannot be part of a mix"),
        (f"score: random, group: {{tile: {{split: mean}}}}, allocate: «{EACH}", "allocate: `heads: each` cannot say"),
        ("score: {llm_attention: «{layers: [3, 2]}}", "layers goes from shallow to deep, not from 3 to 2"),
        ("score: {encoder_attention: «{layers: [-2, -4]}}", "layers goes from shallow to deep, not from -2 to -4"),
        ("score: random, merge: {nearest: {space: encoder_keys, key_layer: «6}}", "encoder block 6 is beyond"),
        ("select: {far: {space: encoder_keys, key_layer: «-7}}", "encoder block -7 is beyond"),
        ("score: random, merge: {knn: {neighbours: «true}}", "integer"),
    ],
)  # fmt: skip
def test_mistakes_stand_where_they_are_written(written: str, message: str) -> None:
    """`«` stands where the mistake must be said to be."""
    head = f"schema: autoprune/policy/1\ncriteria: {{apart: {EACH}}}\nstages:\n"
    line = f"  - {{at: llm:4, keep: 1/2, {written}}}"
    source = parse(head + line.replace("«", "") + "\n", "p.yaml")
    try:
        policy = Policy.from_source(source, PARTS)
    except BadInput as error:
        found = list(error.problems)
    else:
        found = [source.problem(p.path, p.code, p.message, key=p.key) for p in problems(policy, PARTS, geometry())]
    (problem,) = found
    assert message in problem.message
    assert (problem.line, problem.column) == (4, line.index("«") + 1)


@pytest.mark.parametrize("block", [4, -2, "2/3", None])
def test_keys_of_the_same_block_are_the_same_policy(block: Any) -> None:
    def of(**space: Any) -> str:
        stage = {"at": "llm:2", "keep": "1/2", "select": {"far": {"space": "encoder_keys", **space}}}
        policy = Policy.parse({"schema": "autoprune/policy/1", "stages": [stage]}, PARTS)
        return digest(resolve(policy, geometry(8, 64, 6), PARTS, 64))

    assert of(key_layer=block) == of(key_layer=4)
    assert of(key_layer=block) != of(key_layer=3)
