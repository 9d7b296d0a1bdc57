"""`attend: mass`: m equal rows are one row whose key has log(m) on top. That is an identity, so where merged
tokens are the same, the pruned model gives what the unpruned one gives, layer by layer and step by step.

Tokens are the same where features, positions and what they see are: rotary embeddings are turned off, and the image
comes first (causal) or sees itself whole (Gemma 3).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from pruning_support import (
    IMAGE,
    Sample,
    difference,
    generate,
    inputs,
    model,
    policy,
    single,
    stage,
)
from tiny_families import TINY, together
from tiny_families import model as tiny_model
from transformers import DynamicCache

from autoprune.errors import BadInput
from autoprune.policy.resolved import ResolvedStage
from autoprune.pruning.layout import Layout
from autoprune.pruning.prefill import Prefill
from autoprune.pruning.session import Session
from autoprune.pruning.translate import decode_mask, prefill_mask

PATCHES = 36
NEAREST = ("nearest", {"space": "projected"})
MERGING = {
    "input": (stage(0, "1/4", None, "stride", NEAREST, attend="mass"),),
    "inside": (stage(2, "1/4", None, "stride", ("nearest", {"space": "hidden"}), attend="mass"),),
    "cells": (stage(0, "1/4", "random", "top", ("soft", {"temperature": 1.0, "space": "projected"}), attend="mass"),),
    "twice": (
        stage(0, "1/2", None, "stride", NEAREST, attend="mass"),
        stage(3, "1/9", None, "stride", ("nearest", {"space": "hidden"})),
    ),
    "late": (
        stage(2, "1/2", None, "stride", ("nearest", {"space": "hidden"})),
        stage(2, 1, None, "stride", kind="of_current", attend="mass"),
    ),
}


def still(made: Any) -> Any:
    """A copy whose rotary embedding turns nothing."""
    copied = copy.deepcopy(made)
    for name, buffer in copied.named_buffers():
        if "inv_freq" in name:
            buffer.zero_()
    return copied


@contextmanager
def alike(projector: Any, group: int) -> Iterator[None]:
    """Each `group` neighbouring features of an image are the same."""

    def same(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        index = torch.arange(out.shape[-2]) // group * group
        return out[..., index, :]

    handle = projector.register_forward_hook(same)
    try:
        yield
    finally:
        handle.remove()


def image_first(texts: list[int]) -> dict[str, torch.Tensor]:
    """A left-padded batch of prompts that begin with their image."""
    generator = torch.Generator().manual_seed(4)
    width = PATCHES + max(texts)
    ids, mask = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(texts), width, dtype=torch.long)
    for row, count in enumerate(texts):
        ids[row, -count:] = torch.randint(10, 120, (count,), generator=generator)
        ids[row, width - count - PATCHES : width - count] = IMAGE
        mask[row, width - count - PATCHES :] = 1
    pixels = torch.randn(len(texts), 3, 48, 48, generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MERGING)
@pytest.mark.parametrize("texts", [[5], [9, 4]], ids=["alone", "padded"])
def test_merged_copies_are_the_copies(name: str, attention: str, texts: list[int]) -> None:
    made = still(model("llava", attention))
    batch, resolved = image_first(texts), policy(*MERGING[name])
    with alike(made.model.multi_modal_projector, PATCHES):
        full = generate(made, batch)
        with Session(made, resolved) as session:
            pruned = generate(made, batch)
        with Session(made, policy(*map(_without, resolved.stages))):
            unbiased = generate(made, batch)
    assert session.run.lengths[-1][0] < PATCHES
    assert difference(pruned, full) <= 1e-4
    assert torch.equal(pruned.sequences, full.sequences)
    assert difference(unbiased, full) > 1e-2


def _without(one: ResolvedStage) -> ResolvedStage:
    return replace(one, attend=None)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layer", [0, 3])
def test_groups_of_copies_that_see_their_whole_image(layer: int, attention: str) -> None:
    """Gemma 3: pairs become one row each, in text before and after, in sliding and full layers, padded."""
    made = still(tiny_model("gemma3", attention))
    made.config.text_config.sliding_window = made.model.language_model.config.sliding_window = 4096
    batch = together(TINY["gemma3"].rows(TINY["gemma3"].ragged))
    space = "projected" if layer == 0 else "hidden"
    resolved = policy(stage(layer, "1/2", None, "stride", ("nearest", {"space": space}), attend="mass"))
    with alike(made.model.multi_modal_projector, 2):
        full = generate(made, batch)
        with Session(made, resolved) as session:
            pruned = generate(made, batch)
        with Session(made, policy(*map(_without, resolved.stages))):
            unbiased = generate(made, batch)
    assert session.run.lengths[-1] == [n // 2 for n in session.run.n]
    assert difference(pruned, full) <= 1e-4
    assert difference(unbiased, full) > 1e-2


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_a_batch_is_its_samples(family: str, options: dict[str, Any]) -> None:
    made = model(family)
    samples = [Sample(12, ((48, 96), (96, 96))), Sample(7), Sample(9, ())]
    batch = inputs(made, samples)
    resolved = policy(
        stage(0, "1/2", "random", "top", NEAREST, attend="mass"),
        stage(3, "1/5", ("llm_attention", {"from": "last"}), "top", ("nearest", {"space": "hidden"})),
    )
    with Session(made, resolved):
        together = generate(made, batch, **options)
        alone = [generate(made, single(batch, samples, i), **options) for i in range(3)]
    for i, one in enumerate(alone):
        for step, logits in zip(together.logits, one.logits, strict=True):
            width = options.get("num_beams", 1)
            assert torch.allclose(step[i * width : (i + 1) * width], logits, atol=1e-5)


def test_a_second_turn_sees_the_mass() -> None:
    """Several queries in one step, on a pruned cache."""
    made = still(model())
    batch = image_first([6])
    more = torch.randint(10, 120, (1, 4), generator=torch.Generator().manual_seed(8))
    found = []
    for stages in ((), MERGING["twice"]):
        cache = DynamicCache()
        with alike(made.model.multi_modal_projector, PATCHES), Session(made, policy(*stages)), torch.no_grad():
            made(**batch, past_key_values=cache)
            found.append(made(input_ids=more, past_key_values=cache).logits)
    assert torch.allclose(found[0], found[1], atol=1e-4)


@pytest.mark.parametrize("over_keys", ["all", "vision"])
@pytest.mark.parametrize("texts", [[5], [9, 4]], ids=["alone", "padded"])
def test_a_merged_row_is_looked_at_as_its_copies_were_together(
    over_keys: str, texts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A criterion that reads the layer after the merge sees the mass."""
    made, prefills, before = still(model()), [], Prefill.before

    def recorded(prefill: Prefill, *given: Any) -> Any:
        prefills.append(prefill)
        return before(prefill, *given)

    monkeypatch.setattr(Prefill, "before", recorded)
    score = stage(1, "1/9", ("llm_attention", {"from": "last", "over_keys": over_keys}))
    merge = stage(0, "1/2", None, "stride", NEAREST, attend="mass")
    for stages in ((score,), (merge, score)):
        with alike(made.model.multi_modal_projector, 2), Session(made, policy(*stages)), torch.no_grad():
            made(**image_first(texts))
    (full,), (merged,) = (list(p.captured.values()) for p in dict.fromkeys(prefills))
    columns = prefills[0].columns
    copies = full.gather(1, columns).view(len(texts), -1, 2).sum(2)
    assert torch.allclose(merged.gather(1, columns[:, 1::2]), copies, atol=1e-6)
    assert float(copies.sum()) > 0.1


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_the_mask_is_the_models_own_and_the_bias(given: bool, additive: bool) -> None:
    index = torch.tensor([[0, 2, 3, 6], [1, 2, 5, 6]])
    bias = torch.tensor([[0, 0.7, 1.1, 0], [0, 0, 2.0, 0]])
    valid = torch.tensor([[True] * 4, [False] + [True] * 3])
    layout = Layout(index, valid, 7, bias=bias)
    hidden, low = torch.zeros(2, 4, 8), torch.finfo(torch.float32).min
    seen = torch.ones(7, 7, dtype=torch.bool).tril()[None, None].expand(2, -1, -1, -1)
    seen = seen.clone()
    seen[0, 0, 6, 2] = False  # a pattern of the model's own
    mask = (torch.zeros(2, 1, 7, 7).masked_fill(~seen, low) if additive else seen) if given else None
    made = prefill_mask(mask, layout, False, hidden)
    assert made is not None
    for b, row, column in [(b, r, c) for b in range(2) for r in range(4) for c in range(4)]:
        open_here = bool(seen[b, 0, index[b, row], index[b, column]]) if given else column <= row
        real = bool(valid[b, column])
        expected = float(bias[b, column]) if open_here and real else 0.0 if row == column else low
        if not real and row == column:
            expected = float(bias[b, column])
        assert float(made[b, 0, row, column]) == pytest.approx(expected)
    step = torch.zeros(2, 2, 8)
    logical = torch.ones(2, 1, 2, 10, dtype=torch.bool)
    logical[:, :, 0, 9] = False
    decoded = decode_mask(logical if given else None, layout, False, 7, step)
    assert decoded is not None
    expected_row = [[0, 0.7, 1.1, 0, 0, 0, low], [low, 0, 2.0, 0, 0, 0, low]]
    assert decoded[:, 0, 0].tolist() == [pytest.approx(row) for row in expected_row]
    assert float(decoded[0, 0, 1, 6]) == 0


def test_flash_attention_is_refused() -> None:
    from autoprune.pruning.refuse import refuse_bias

    class Holder:
        class config:  # noqa: N801
            _attn_implementation = "flash_attention_2"

    resolved = policy(*MERGING["input"])
    with pytest.raises(BadInput, match="for which FlashAttention has no input"):
        refuse_bias(resolved, Holder())
    refuse_bias(policy(*map(_without, resolved.stages)), Holder())
    Holder.config._attn_implementation = "sdpa"
    refuse_bias(resolved, Holder())
