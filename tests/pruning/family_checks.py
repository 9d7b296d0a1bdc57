"""What every family must pass: a pruned run is the untouched model with keys masked; a batch is its samples."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pruning_support import IMAGE, LAYERS, MaskedReference, Sample, difference, generate
from test_pruning_generation import same, snapshot
from tiny_families import TINY, Batch, model, together
from transformers import DynamicCache

from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.session import Session


def check_keeping_everything(name: str, attention: str, everything: ResolvedPolicy) -> None:
    made, tiny = model(name, attention), TINY[name]
    for samples in (tiny.odd, tiny.ragged[:1]):
        batch = together(tiny.rows(samples))
        base = seeded(made, batch, steps=3)
        with Session(made, everything) as session:
            found = generate(made, batch, 3)
        assert difference(found, base) == 0.0
        assert difference(found, generate(made, batch, 3)) <= 1e-6  # a window's own cache sums in another order
        assert session.budget().mean == 1.0


def check_dropping_is_masking(name: str, attention: str, resolved: ResolvedPolicy, **options: Any) -> None:
    """Prefill and decoding, alone and in padded batches. `options` are generate's."""
    made, tiny = model(name, attention), TINY[name]
    for samples in (tiny.ragged[:1], tiny.odd):
        batch = together(tiny.rows(samples))
        with Session(made, resolved) as session:
            pruned = seeded(made, batch, **options)
        with MaskedReference(made, session.run):
            reference = seeded(made, batch, **options)
        assert session.budget().mean < 0.9
        assert torch.equal(pruned.sequences, reference.sequences)
        assert difference(pruned, reference) <= 1e-5
        with torch.no_grad():
            untouched = made(**batch, use_cache=False, logits_to_keep=1).logits[:, -1]
        assert float((pruned.logits[0][:: len(pruned.logits[0]) // len(untouched)] - untouched).abs().max()) > 1e-3


def seeded(made: Any, batch: Batch, **options: Any) -> Any:
    """Generation with a cache that keeps every layer whole, as a policy's does: the masks do the windowing."""
    torch.manual_seed(5)
    return generate(made, batch, past_key_values=DynamicCache(), **options)


def check_a_batch_is_its_samples(
    name: str, attention: str, resolved: ResolvedPolicy, samples: Sequence[Sample]
) -> None:
    made, rows = model(name, attention), TINY[name].rows(samples)
    batch = together(rows)
    with Session(made, resolved) as session:
        whole = generate(made, batch, 3)
        run = session.run
        for i, row in enumerate(rows):
            alone = generate(made, together([row]), 3)
            error = max(float((p[i] - q[0]).abs().max()) for p, q in zip(whole.logits, alone.logits, strict=True))
            assert error <= 1e-5
            assert torch.equal(whole.sequences[i, -3:], alone.sequences[0, -3:])
            for layer in range(LAYERS):
                assert session.run.kept(layer, 0) == run.kept(layer, i)


def check_the_budget_is_what_the_layers_saw(name: str, resolved: ResolvedPolicy) -> None:
    made = model(name)
    for row in TINY[name].rows(TINY[name].ragged):
        seen: list[int] = []
        batch = together([row])
        layers = made.model.language_model.layers
        with Session(made, resolved) as session, torch.no_grad():
            handles = [x.register_forward_pre_hook(lambda m, a, s=seen: s.append(a[0].shape[1])) for x in layers]
            made(**batch, use_cache=False)
        for handle in handles:
            handle.remove()
        visual = int((batch["input_ids"] == IMAGE).sum())
        text = batch["input_ids"].shape[1] - visual
        assert session.run.n == [visual]
        assert [n[0] for n in session.run.lengths] == [n - text for n in seen]
        assert session.budget().mean == pytest.approx(sum(n - text for n in seen) / (LAYERS * visual))


def check_detaching_restores_the_model(name: str, resolved: ResolvedPolicy) -> None:
    made, batch = copy.deepcopy(model(name)), together(TINY[name].rows(TINY[name].odd))
    base, before = generate(made, batch, 3), snapshot(made)
    with Session(made, resolved):
        assert not same(snapshot(made), before)
        assert difference(generate(made, batch, 3), base) > 1e-3
    assert same(snapshot(made), before)
    assert difference(generate(made, batch, 3), base) == 0.0


def check_a_forced_pass_is_the_generation(name: str, resolved: ResolvedPolicy) -> None:
    """One pass over prompt and answer keeps the same tokens and gives the same logits."""
    made, batch = model(name), together(TINY[name].rows(TINY[name].odd))
    with Session(made, resolved) as session:
        greedy = generate(made, batch, 4)
        run, answers = session.run, greedy.sequences[:, -4:]
        more = {"input_ids": answers, "attention_mask": torch.ones_like(answers)}
        if (types := TINY[name].types) is not None:
            more[types] = torch.zeros_like(answers)
        both = {k: torch.cat([v, more[k]], 1) if k in more else v for k, v in batch.items()}
        with torch.no_grad(), session.teacher_forced(torch.full((len(answers),), batch["input_ids"].shape[1])):
            logits = made(**both, use_cache=False).logits[:, -5:-1]
    for layer in range(LAYERS):
        for b in range(len(answers)):
            assert session.run.kept(layer, b) == run.kept(layer, b)
    assert float((logits - torch.stack(greedy.logits, 1)).abs().max()) <= 1e-5


def check_later_turns(name: str, resolved: ResolvedPolicy) -> None:
    """Text and an image on the pruned cache of a first turn: masks still count in the unpruned sequence."""
    made, tiny = model(name), TINY[name]
    first, second = (together(tiny.rows(tiny.ragged[:1], seed=seed)) for seed in (1, 4))
    words = {"input_ids": torch.tensor([[11, 12, 13, 14]])}
    if tiny.types is not None:
        words[tiny.types] = torch.zeros_like(words["input_ids"])

    def turns() -> list[torch.Tensor]:
        cache, width, found = DynamicCache(), 0, []
        for turn in (first, words, second):
            width += turn["input_ids"].shape[1]
            inputs = {**turn, "attention_mask": torch.ones(1, width, dtype=torch.long)}
            with torch.no_grad():
                found.append(made(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=3).logits)
        return found

    with Session(made, resolved) as session, pytest.warns(UserWarning, match="after the first turn"):
        pruned = turns()
    with MaskedReference(made, session.run):
        reference = turns()
    for found, expected in zip(pruned, reference, strict=True):
        assert float((found - expected).abs().max()) <= 1e-5
