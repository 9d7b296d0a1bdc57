"""What reads the prompt's words and pairs, or turns queries and keys, on every family: a batch is its samples."""

from __future__ import annotations

import pytest
from family_checks import check_a_batch_is_its_samples, check_a_forced_pass_is_the_generation
from pruning_support import policy, stage
from tiny_families import TINY

from autoprune.errors import BadInput

KEYS = ("feature_norm", {"space": "keys", "order": "l1"})
OVER = ("llm_attention", {"from": "raters", "heads": "top_half", "over_rope": True})
COVER = {"kernel": "cosine", "space": "projected", "text_weight": 0, "score_weight": 0.7, "score_scale": "cosine"}
POLICIES = {
    "over_rope": policy(stage(2, "1/2", OVER)),
    "dart": policy(stage(2, "1/2", KEYS, ("pivot", {"image": 2, "text": 2}))),
    "catp": policy(
        stage(0, "2/3", ("similarity", {"space": "projected", "from": "pair"}), ("cover", COVER)),
        stage(2, "1/2", ("similarity", {"space": "hidden", "from": "query"})),
        stage(3, "1/3", ("similarity", {"space": "hidden", "from": "context"})),
    ),
}


CASES = [
    (name, which) for name in TINY for which in POLICIES if not (which == "over_rope" and name.startswith("gemma3"))
]


@pytest.mark.parametrize(("name", "which"), CASES)
def test_a_batch_is_its_samples(name: str, which: str) -> None:
    check_a_batch_is_its_samples(name, "sdpa", POLICIES[which], TINY[name].ragged)
    check_a_batch_is_its_samples(name, "sdpa", POLICIES[which], TINY[name].odd)


@pytest.mark.parametrize("name", TINY)
def test_a_forced_pass_is_the_generation(name: str) -> None:
    check_a_forced_pass_is_the_generation(name, POLICIES["catp"])


def test_a_rotary_embedding_by_kind_of_layer_is_refused() -> None:
    with pytest.raises(BadInput, match="`over_rope`: this model's layers differ in their rotary embeddings"):
        check_a_forced_pass_is_the_generation("gemma3", POLICIES["over_rope"])
