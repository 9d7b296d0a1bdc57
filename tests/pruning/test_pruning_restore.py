"""Parked tokens: aside while the layers in between run, and back where and as they were, or moved with their kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pruning_support import (
    LAYERS,
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

from autoprune.policy.budget import lengths
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.parking import Parking, Present
from autoprune.pruning.session import Session

RAGGED = [Sample(12, ((48, 96), (96, 96))), Sample(7), Sample(9, ())]
TEXT = ("llm_attention", {"from": "text"})
PARK = ("park", {"space": "hidden"})


def back(layer: int, how: str, keep: str | int = 1, score: Any = "random", **options: Any) -> Any:
    return stage(layer, keep, score, restore=how, **options)


@pytest.mark.parametrize("how", ["parked", "scattered"])
@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_parked_and_restored_at_once_is_the_untouched_model(family: str, layer: int, how: str) -> None:
    made = model(family)
    batch = inputs(made, RAGGED)
    base = generate(made, batch)
    with Session(made, policy(stage(layer, "1/4", "random", merge=PARK), back(layer, how))) as session:
        assert difference(generate(made, batch), base) == 0.0
    assert session.run.lengths == [session.run.n] * LAYERS


@pytest.mark.parametrize("name", TINY)
def test_every_family_parks_and_restores(name: str) -> None:
    made = tiny_model(name)
    for samples in (TINY[name].ragged, TINY[name].odd):
        batch = together(TINY[name].rows(samples))
        base = generate(made, batch, 3)
        for layer in (0, 4):
            with Session(made, policy(stage(layer, "1/4", "random", merge=PARK), back(layer, "scattered"))):
                assert difference(generate(made, batch, 3), base) <= 1e-6  # a cache without windows rounds otherwise
        stages = (stage(1, "1/4", "random", merge=PARK), back(3, "scattered", "1/2", "random"))
        with Session(made, policy(*stages)) as session:
            whole = generate(made, batch, 3)
            run = session.run
            for i, row in enumerate(TINY[name].rows(samples)):
                alone = generate(made, together([row]), 3)
                for step, logits in zip(whole.logits, alone.logits, strict=True):
                    assert torch.allclose(step[i : i + 1], logits, atol=2e-5)
        assert difference(whole, base) > 1e-3
        expected = [lengths(policy(*stages), n) if n else (0,) * LAYERS for n in run.n]
        assert [tuple(layer) for layer in run.lengths] == list(zip(*expected, strict=True))


def by_hand(made: Any, batch: dict[str, Any], kept: dict[int, list[int]], how: str) -> torch.Tensor:
    """Logits of one unpadded sample from the library's own layers: parked before layer 2, back before 4, and before 5
    only what `kept[5]` says. Rows are logical columns; who follows whom is found by plain loops."""
    language_model, seen = made.model.language_model, {}

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        seen["hidden"], seen["rotary"] = args[0][0], kwargs["position_embeddings"]

    handle = language_model.layers[0].register_forward_pre_hook(hook, with_kwargs=True)
    made(**batch, use_cache=False)
    handle.remove()
    hidden, (cos, sin) = seen["hidden"], seen["rotary"]
    rows = list(range(len(hidden)))
    for number, layer in enumerate(language_model.layers):
        if number == 2:
            before = {c: hidden[i] for i, c in enumerate(rows)}
            rows = kept[2]
            hidden = torch.stack([before[c] for c in rows])
        elif number == 4:
            now = {c: hidden[i] for i, c in enumerate(rows)}
            visual = [c for c in rows if batch["input_ids"][0, c] == 5]
            for column in sorted(set(before) - set(rows)):
                leader = max(visual, key=lambda c: (_cosine(before[column], before[c]), -c))
                moved = now[leader] - before[leader] if how == "scattered" else 0
                now[column] = before[column] + moved
            rows = sorted(now)
            hidden = torch.stack([now[c] for c in rows])
        elif number == 5:
            hidden, rows = torch.stack([h for h, c in zip(hidden, rows, strict=True) if c in kept[5]]), kept[5]
        mask = torch.ones(len(rows), len(rows), dtype=torch.bool).tril()[None, None]
        turned = (cos[:, rows], sin[:, rows])
        hidden = layer(hidden[None], attention_mask=mask, position_embeddings=turned)[0]
        hidden = hidden[0] if hidden.ndim == 3 else hidden
    return made.lm_head(language_model.norm(hidden))


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


@pytest.mark.parametrize("how", ["parked", "scattered"])
def test_prefill_and_decoding_are_the_layers_run_by_hand(how: str) -> None:
    """The answer is appended to the prompt: what decoding gives step by step, the layers give in one pass."""
    made, sample = model(), Sample(12)
    batch = inputs(made, [sample])
    stages = (
        stage(2, "1/4", ("llm_attention", {"from": "last"}), merge=PARK),
        back(4, how),
        stage(5, "1/3", TEXT),
    )
    with Session(made, policy(*stages)) as session:
        pruned = generate(made, batch, 6)
    run = session.run
    assert [layer[0] for layer in run.lengths] == [36, 36, 9, 9, 36, 12]
    answer = pruned.sequences[:, batch["input_ids"].shape[1] :]
    width, text = batch["input_ids"].shape[1], answer.shape[1] - 1
    whole = {
        "input_ids": torch.cat([batch["input_ids"], answer[:, :-1]], 1),
        "attention_mask": torch.ones(1, width + text, dtype=torch.long),
        "pixel_values": batch["pixel_values"],
    }
    tail = list(range(width, width + text))
    kept = {layer: run.index(layer)[0][0].tolist() + tail for layer in (2, 5)}
    with torch.no_grad():
        logits = by_hand(made, whole, kept, how)[-(text + 1) :]
    assert torch.allclose(torch.cat(pruned.logits), logits, atol=1e-4)


MIXED = {
    "scattered": (
        stage(1, "1/4", TEXT, merge=PARK),
        back(3, "scattered", "1/2", ("llm_attention", {"from": "text", "layer": "own"})),
    ),
    "twice": (
        stage(0, "2/3", "random", merge=("park", {"space": "projected"})),
        stage(2, "1/4", TEXT, merge=PARK),
        back(3, "scattered", "3/4", TEXT, merge=PARK),
        back(5, "parked", "7/8"),
    ),
    "massive": (
        stage(0, "1/2", "random", merge=("nearest", {"space": "projected"}), attend="mass"),
        stage(2, "1/5", TEXT, merge=PARK),
        back(4, "scattered", "2/5", ("llm_attention", {"from": "text", "layer": "own"})),
    ),
    "compact": (
        stage(1, "1/4", TEXT, merge=PARK, positions="compact"),
        back(3, "scattered", "1/2", TEXT, positions="compact"),
    ),
}


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_a_batch_is_its_samples_and_counts_as_said(family: str, name: str, options: dict[str, Any]) -> None:
    made = model(family)
    batch, resolved = inputs(made, RAGGED), policy(*MIXED[name])
    with Session(made, resolved) as session:
        together = generate(made, batch, **options)
        run = session.run
        alone = [generate(made, single(batch, RAGGED, i), **options) for i in range(3)]
    width = options.get("num_beams", 1)
    for i, one in enumerate(alone):
        for step, logits in zip(together.logits, one.logits, strict=True):
            assert torch.allclose(step[i * width : (i + 1) * width], logits, atol=2e-5)
    for i, n in enumerate(run.n):
        expected = lengths(resolved, n) if n else (0,) * LAYERS
        assert tuple(layer[i] for layer in run.lengths) == expected
        numbers = run.kept(LAYERS - 1, i)
        assert numbers == sorted(set(numbers))
    counted = sum(sum(layer) for layer in run.lengths) / (LAYERS * sum(run.n))
    assert run.budget().mean == pytest.approx(counted)


def test_the_cache_between_holds_only_what_ran() -> None:
    made, cache = model(), DynamicCache()
    batch = inputs(made, [Sample(10)])
    stages = (stage(1, "1/6", "random", merge=PARK), back(4, "parked", "1/2", "random"))
    with Session(made, policy(*stages)), torch.no_grad():
        made(**batch, past_key_values=cache)
    assert [layer.stored_length() for layer in cache.layers] == [46, 16, 16, 16, 28, 28]
    assert {layer.get_seq_length() for layer in cache.layers} == {46}


def test_restored_positions_are_the_original_ones_or_numbered_anew() -> None:
    made = model()
    batch = inputs(made, [Sample(12), Sample(7)])
    for positions in ("keep", "compact"):
        with Session(made, policy(stage(1, "1/4", "random", merge=PARK, positions=positions), back(3, "parked"))) as s:
            with torch.no_grad():
                made(**batch)
            layout = s.run.layouts[3]
        index, valid = s.run.index(3)
        assert valid is not None
        for b in range(2):
            real = index[b][valid[b]].tolist()
            assert real == sorted(real)
            if positions == "compact":
                assert layout.positions is not None
                assert layout.positions[b][valid[b]].tolist() == list(range(len(real)))
            else:
                assert real == batch["attention_mask"][b].nonzero()[:, 0].tolist()
                assert layout.positions is None


# ------------------------------------------------------------------------------------------ who follows whom, by hand
def _event(parking: Parking, tokens: list[int], kept: list[bool], follows: list[int], hidden: list[float]) -> None:
    from types import SimpleNamespace

    count = len(tokens)
    view: Any = SimpleNamespace(
        tokens=torch.tensor([tokens]),
        valid=torch.ones(1, count, dtype=torch.bool),
        hidden=torch.tensor(hidden)[None, :, None],
        mass=torch.tensor([[float(10 + t) for t in tokens]]),
    )
    parking.park(view, torch.tensor([kept]), torch.tensor([follows]), [count - sum(kept)])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # 0 stayed and moved by 100; 1 followed 0; 3 was parked later and followed 0 (100 - 30 moved it by 70);
        # 2 followed 3, which has moved by 70 since the second and 30 - 3 before it; 4 followed 5, which was dropped
        ("parked", [100.0, 1.0, 2.0, 30.0, 4.0]),
        ("scattered", [100.0, 1.0 + 100, 2.0 + (30 + 90) - 3, 30.0 + 90, 4.0]),
    ],
)
def test_a_token_moves_with_the_one_it_follows(how: Any, expected: list[float]) -> None:
    parking = Parking(6, [0])
    _event(parking, [0, 1, 2, 3, 4, 5], [True, False, False, True, False, True], [0, 0, 3, 3, 5, 5], [0, 1, 2, 3, 4, 5])
    _event(parking, [0, 3, 5], [True, False, True], [0, 0, 2], [10.0, 30.0, 50.0])
    assert parking.counts == [4]
    there = Present(*(torch.tensor(v) for v in ([[0]], [[True]], [[[100.0]]], [[7.0]])))
    present, back_again, _ = parking.restore(there, how, [5])
    assert present.tokens.tolist() == [[0, 1, 2, 3, 4]]
    assert present.hidden[0, :, 0].tolist() == expected
    assert present.mass.tolist() == [[7.0, 11.0, 12.0, 13.0, 14.0]]
    assert back_again.tolist() == [[False, True, True, True, True, False]]
    assert parking.counts == [0]
    assert not parking.events


def test_nothing_parked_is_nothing_restored() -> None:
    made = model()
    batch = inputs(made, [Sample(9), Sample(7, ())])
    with Session(made, ResolvedPolicy((back(2, "parked", "1/2", "random"),), LAYERS)):
        given = generate(made, batch)
    with Session(made, policy(stage(2, "1/2", "random"))):
        assert difference(generate(made, batch), given) == 0.0
