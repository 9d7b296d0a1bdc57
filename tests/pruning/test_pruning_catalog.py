"""Every policy of the catalog, carried out at the depth its paper counts in: 32 decoder layers, 24 encoder blocks."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from pruning_support import inputs, single
from tiny_families import IMAGE, Sample
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from autoprune.document.yaml import read
from autoprune.models.family import geometry_of
from autoprune.policy import catalog
from autoprune.policy.budget import lengths
from autoprune.policy.canonical import from_json, resolve, to_json
from autoprune.policy.document import Policy
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.record import Run
from autoprune.pruning.session import Session

PARTS = RegisteredParts()
SAMPLES = [Sample(12), Sample(7), Sample(9, ())]


@cache
def deep() -> Any:
    """Narrow, but as deep as LLaVA 1.5."""
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=24, num_attention_heads=2, image_size=48, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=128,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(3)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=-2)
    made: Any = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    return made.eval()


def expected(resolved: ResolvedPolicy, run: Run) -> list[tuple[int, ...]]:
    """Positions of each sample entering the layers; where count rules decide, from what the run has counted."""
    found = []
    for sample, n in enumerate(run.n):
        decided = tuple(stage[sample] for stage in run.counts)
        found.append(lengths(resolved, n, 0, decided if resolved.adaptive else None) if n else (0,) * 32)
    return found


def prefill(resolved: Any, batch: dict[str, torch.Tensor]) -> Run:
    with Session(deep(), resolved) as session, torch.no_grad():
        deep()(**batch)
        return session.run


@pytest.mark.parametrize("name", catalog.names("policies"))
def test_a_published_policy_runs_with_the_budget_it_promises(name: str) -> None:
    made = deep()
    policy = Policy.from_source(read(catalog.find("policies", name)), PARTS)
    geometry = geometry_of(made.config.to_dict())
    resolved = from_json(to_json(resolve(policy, geometry, PARTS, geometry.tokens_per_image)))
    batch = inputs(made, SAMPLES)
    together = prefill(resolved, batch)
    assert [tuple(layer) for layer in together.lengths] == list(zip(*expected(resolved, together), strict=True))
    assert together.n == [36, 36, 0]
    for sample in (0, 1):
        alone = prefill(resolved, single(batch, SAMPLES, sample))
        for layer in (0, 7, 12, 31):
            assert together.kept(layer, sample) == alone.kept(layer, 0)


@pytest.mark.parametrize("name", catalog.names("policies"))
def test_a_parity_run_keeps_as_many_tokens_as_any_other(name: str) -> None:
    policy = Policy.from_source(read(catalog.find("policies", name)), PARTS)
    if not policy.parity:
        pytest.skip("the release does as our defaults")
    geometry = geometry_of(deep().config.to_dict())
    tokens = geometry.tokens_per_image
    released = from_json(to_json(resolve(policy, geometry, PARTS, tokens, parity=True)))
    run = prefill(released, inputs(deep(), SAMPLES))
    own = resolve(policy, geometry, PARTS, tokens)
    assert [tuple(layer) for layer in run.lengths] == list(zip(*expected(own, run), strict=True))
    if policy.parity.positions == "compact":
        layout = run.layouts[-1]
        assert layout.positions is not None
        assert int(layout.positions.max()) == layout.width - 1
