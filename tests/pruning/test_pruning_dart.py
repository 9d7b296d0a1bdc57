"""DART on a model: against the oracle of its release, from an eager model's own keys and states in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from llm_reference import Prompt, turned
from oracles.basics import norm
from oracles.selection import dart_release
from pruning_support import inputs, model, policy, single, stage
from tiny_families import Sample

from autoprune.pruning.refuse import refuse_signals
from autoprune.pruning.session import Session

KEYS = ("feature_norm", {"space": "keys", "order": "l1"})
SAMPLES = [Sample(12), Sample(9), Sample(16, ((48, 96), (48, 96)))]
BUDGET, KEPT = 24, 28  # 4 + 8 * floor(24 / 8)


def states(batch: dict[str, torch.Tensor], layer: int) -> tuple[torch.Tensor, list[list[float]]]:
    """What enters a decoder layer [n, D], and the rotated keys of the layer before, heads side by side [n][Hkv * D]."""
    language_model: Any = model("llava", "eager").model.language_model
    seen: dict[str, torch.Tensor] = {}
    projection = language_model.layers[layer - 1].self_attn.k_proj
    handles = [
        language_model.layers[layer].register_forward_pre_hook(lambda m, a: seen.update(hidden=a[0][0].double())),
        projection.register_forward_hook(lambda m, a, o: seen.update(keys=o[0].double())),
    ]
    with torch.no_grad():
        model("llava", "eager")(**batch, use_cache=False)
    for handle in handles:
        handle.remove()
    width = language_model.layers[0].self_attn.head_dim
    keys = []
    for p, row in enumerate(seen["keys"].tolist()):
        angles = [p / 10000 ** (2 * i / width) for i in range(width // 2)]
        heads = [turned(row[h : h + width], angles, True) for h in range(0, len(row), width)]
        keys.append([x for head in heads for x in head])
    return seen["hidden"], keys


def last_norm(hidden: torch.Tensor) -> np.ndarray[Any, Any]:
    module: Any = model("llava", "eager").model.language_model.norm
    weight, epsilon = module.weight.double().tolist(), module.variance_epsilon
    rows = []
    for row in hidden.tolist():
        size = math.sqrt(sum(x * x for x in row) / len(row) + epsilon)
        rows.append([w * x / size for w, x in zip(weight, row, strict=True)])
    return np.array(rows)


@pytest.fixture
def uneven() -> Any:
    """The last norm of both models weighs dimensions differently, as a trained one does."""
    modules: list[Any] = [made.model.language_model.norm for made in (model(), model("llava", "eager"))]
    before = modules[0].weight.detach().clone()
    weights = torch.logspace(-1.5, 1.5, len(before))
    with torch.no_grad():
        for module in modules:
            module.weight.copy_(weights)
    yield
    with torch.no_grad():
        for module in modules:
            module.weight.copy_(before)


@pytest.mark.usefixtures("uneven")
def test_dart_keeps_what_its_release_keeps() -> None:
    batch = inputs(model(), SAMPLES)
    for b in (0, 1):
        alone = single(batch, SAMPLES, b)
        prompt = Prompt(alone)
        hidden, keys = states(alone, 2)
        norms = [norm(k, 1) for k in keys]
        kept = dart_release(last_norm(hidden), norms, prompt.visual, prompt.text, BUDGET)
        expected = sorted(c - prompt.visual[0] for c in kept)
        assert len(expected) == KEPT
        plain = dart_release(np.array(hidden.tolist()), norms, prompt.visual, prompt.text, BUDGET)
        for space, reference in (("normed", expected), ("hidden", sorted(c - prompt.visual[0] for c in plain))):
            half = policy(stage(2, KEPT, KEYS, ("pivot", {"space": space}), kind="tokens"))
            with Session(model(), half) as session, torch.no_grad():
                model()(**alone)
                assert session.run.kept(2, 0) == reference
                model()(**batch)
                assert session.run.kept(2, b) == reference
        assert sorted(kept) != sorted(plain)  # the norm shows


def test_a_model_without_a_last_norm_is_refused() -> None:
    from autoprune.errors import BadInput
    from autoprune.pruning.decoder_signals import NormedStates

    with pytest.raises(BadInput, match="has no last norm"):
        refuse_signals([NormedStates()], object(), ())
