"""What criteria see is what the model computed: against output_attentions, hidden states and a re-derived packing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pruning_support import IMAGE, PATCHES, Sample, inputs, model, policy, stage

from autoprune.pruning import prefill
from autoprune.pruning.plan import evaluate
from autoprune.pruning.session import Session

SAMPLES = {
    "llava": [Sample(9), Sample(16, ((48, 96), (48, 96)))],
    "llava_next": [Sample(9), Sample(16, ((96, 96), (96, 48)))],
}


def scores(made: Any, batch: dict[str, torch.Tensor], criterion: Any, layer: int) -> torch.Tensor:
    """A criterion's scores as a stage of a real run sees them, [B, V]."""
    seen: list[torch.Tensor] = []
    original = prefill.reduce

    def spy(planned: Any, view: Any, *rest: Any) -> Any:
        seen.append(evaluate(planned.picks[0].score, view))
        return original(planned, view, *rest)

    prefill.reduce = spy
    try:
        with Session(made, policy(stage(layer, "1/2", criterion))), torch.no_grad():
            made(**batch, use_cache=False)
    finally:
        prefill.reduce = original
    return seen[0]


def visual_rows(batch: dict[str, torch.Tensor], values: torch.Tensor) -> list[torch.Tensor]:
    """Values [B, S, ...] at each sample's placeholders."""
    return [values[b][batch["input_ids"][b] == IMAGE] for b in range(len(values))]


def close(found: torch.Tensor, expected: list[torch.Tensor], tolerance: float = 2e-6) -> bool:
    return all(float((found[b, : len(e)] - e).abs().max()) <= tolerance for b, e in enumerate(expected))


@pytest.mark.parametrize("heads", ["mean", "max"])
@pytest.mark.parametrize("layer", ["prev", "own", 1])
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_llm_attention_is_the_models_attention(family: str, layer: Any, heads: str) -> None:
    eager = model(family, "eager")
    batch = inputs(eager, SAMPLES[family])
    with torch.no_grad():
        attention = eager(**batch, output_attentions=True, use_cache=False).attentions
    wanted = attention[{"prev": 2, "own": 3, 1: 1}[layer]]
    wanted = wanted.mean(1) if heads == "mean" else wanted.amax(1)
    columns = torch.arange(wanted.shape[2])
    last_visual = torch.stack([columns[row == IMAGE].max() for row in batch["input_ids"]])
    text = torch.stack([wanted[b, int(c) + 1 :].mean(0) for b, c in enumerate(last_visual)])
    for attention_name in ("eager", "sdpa"):
        made = model(family, attention_name)
        for source, rows in (("last", wanted[:, -1]), ("text", text)):
            found = scores(made, batch, ("llm_attention", {"layer": layer, "from": source, "heads": heads}), 3)
            assert close(found, visual_rows(batch, rows))


@pytest.mark.parametrize("block", [0, -2, -1])
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_encoder_attention_lines_up_with_the_visual_tokens(family: str, block: int) -> None:
    made, eager = model(family), model(family, "eager")
    batch = inputs(made, SAMPLES[family])
    pixels = batch["pixel_values"]
    if family == "llava_next":
        counts = [3 if size != [96, 96] else 5 for size in batch["image_sizes"].tolist()]
        pixels = torch.cat([p[:n] for p, n in zip(pixels, counts, strict=True)])
    with torch.no_grad():
        attention = eager.model.vision_tower(pixels, output_attentions=True, return_dict=True).attentions[block]
    rows = attention.mean(1)[:, 0, 1:]  # [tiles, patches]
    images = packed_by_hand(rows, batch["image_sizes"].tolist(), counts) if family == "llava_next" else list(rows)
    expected = [images[0], torch.cat(images[1:])]
    assert close(scores(made, batch, ("encoder_attention", {"layer": block}), 2), expected)


def packed_by_hand(rows: torch.Tensor, sizes: list[list[int]], counts: list[int]) -> list[torch.Tensor]:
    """Overview, then the tiles as one picture, row by row, a zero for each newline (these sizes need no unpadding)."""
    packed, start = [], 0
    for (height, width), count in zip(sizes, counts, strict=True):
        overview, grid = rows[start], rows[start + 1 : start + count].view(height // 48, width // 48, 6, 6)
        picture = grid.permute(0, 2, 1, 3).reshape(height // 8, width // 8)
        packed.append(torch.cat([overview, torch.nn.functional.pad(picture, (0, 1)).flatten()]))
        start += count
    return packed


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_feature_norms_are_those_of_the_models_tensors(family: str) -> None:
    made = model(family)
    batch = inputs(made, SAMPLES[family])
    projected: list[torch.Tensor] = []
    handle = made.model.language_model.layers[0].register_forward_pre_hook(lambda m, a: projected.append(a[0]))
    caught: list[torch.Tensor] = []
    keys = made.model.language_model.layers[1].self_attn.k_proj.register_forward_hook(lambda m, a, o: caught.append(o))
    with torch.no_grad():
        hidden = made(**batch, output_hidden_states=True, use_cache=False).hidden_states[2]
    handle.remove()
    keys.remove()
    for space, values in (("projected", projected[0]), ("hidden", hidden), ("keys", caught[0])):
        found = scores(made, batch, ("feature_norm", {"space": space}), 2)
        assert close(found, visual_rows(batch, values.norm(dim=-1)), 1e-4)


def test_encoder_features_enter_the_projector() -> None:
    made = model()
    batch = inputs(made, SAMPLES["llava"])
    with torch.no_grad():
        states = made.model.vision_tower(batch["pixel_values"], output_hidden_states=True, return_dict=True)
    norms = states.hidden_states[-2][:, 1:].norm(dim=-1)
    found = scores(made, batch, ("feature_norm", {"space": "encoder"}), 0)
    assert close(found, [norms[0], norms[1:].flatten()], 1e-4)


def test_the_class_token_stays_where_the_model_keeps_it() -> None:
    """Strategy `full`: the CLS feature is a visual token, and its score is the CLS row's first entry."""
    made = model("llava", "sdpa", "full")
    generator = torch.Generator().manual_seed(3)
    ids = torch.cat([torch.tensor([11, 12]), torch.full((PATCHES + 1,), IMAGE), torch.tensor([13, 14, 15])])[None]
    pixels = torch.randn(1, 3, 48, 48, generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    with torch.no_grad():
        eager = model("llava", "eager", "full").model.vision_tower
        attention = eager(pixels, output_attentions=True, return_dict=True).attentions[-2]
    assert close(scores(made, batch, "encoder_attention", 2), [attention.mean(1)[0, 0]])


def test_random_is_the_same_alone_and_in_a_padded_batch_of_tiles() -> None:
    """The pixel hash ignores the padding tiles that a larger neighbour in the batch brings."""
    made = model("llava_next")
    samples = [Sample(9), Sample(9, ((96, 96),))]
    batch = inputs(made, samples)
    alone = {k: v[:1] for k, v in batch.items()}
    real = alone["attention_mask"][0].bool()
    alone = {k: v[:, real] if k in ("input_ids", "attention_mask") else v for k, v in alone.items()}
    alone["pixel_values"] = alone["pixel_values"][:, :3]
    together, single = scores(made, batch, "random", 1), scores(made, alone, "random", 1)
    assert torch.equal(together[0, : single.shape[1]], single[0])
    assert not torch.equal(together[0, :50], together[1, :50])
