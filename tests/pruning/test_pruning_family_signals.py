"""Facts per visual token where several patches become one: against the models' own tensors, put together by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_checks import seeded
from pruning_support import SIDE, Sample, generate, policy, stage
from test_pruning_signals import scores
from tiny_families import HIGH, LARGE, ONE, TINY, WIDE, Batch, model, together
from torch.utils.flop_counter import FlopCounterMode

from autoprune.errors import BadInput
from autoprune.measures.costs import tower_flops
from autoprune.models import geometry_of
from autoprune.pruning.session import Session

ENCODER = ("feature_norm", {"space": "encoder"})
SAMPLES = {
    "llava_onevision": (Sample(9, (WIDE,)), Sample(12, ()), Sample(16, (ONE, HIGH))),
    "onevision_shrunk": (Sample(9, (WIDE,)), Sample(9, (LARGE,))),
    "internvl": (Sample(9, (ONE,)), Sample(12, ()), Sample(16, (WIDE, ONE))),
    "gemma3": (Sample(9, (ONE,)), Sample(16, (ONE, ONE))),
}


def batch_of(name: str) -> Batch:
    return together(TINY[name].rows(SAMPLES[name]))


def close(found: torch.Tensor, expected: list[torch.Tensor], tolerance: float = 2e-6) -> bool:
    """Scores [B, V] against each sample's own, which may be none."""
    assert found.shape == (len(expected), max(map(len, expected)))
    return all(torch.allclose(found[b, : len(e)], e, atol=tolerance) for b, e in enumerate(expected))


def blocks(values: torch.Tensor) -> torch.Tensor:
    """Means over 2 x 2 blocks of patches [T, P, ...] in raster order, one loop per block."""
    side = int(values.shape[1] ** 0.5)
    picture = values.reshape(len(values), side, side, *values.shape[2:])
    return torch.stack(
        [
            picture[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].flatten(1, 2).mean(1)
            for r in range(side // 2)
            for c in range(side // 2)
        ],
        1,
    )


@pytest.mark.parametrize("block", [0, -1])
def test_class_attention_is_averaged_over_the_patches_of_a_token(block: int) -> None:
    batch, made = batch_of("internvl"), model("internvl")
    with torch.no_grad():
        eager = model("internvl", "eager").model.vision_tower
        attention = eager(batch["pixel_values"], output_attentions=True, return_dict=True).attentions[block]
    tiles = blocks(attention.mean(1)[:, 0, 1:])  # 1 tile; 2 tiles and a thumbnail, 1 tile
    expected = [tiles[0], tiles[:0].flatten(), tiles[1:].flatten()]
    assert close(scores(made, batch, ("encoder_attention", {"layer": block}), 2), expected)


def test_features_that_enter_the_projector_come_per_token() -> None:
    batch, made = batch_of("internvl"), model("internvl")
    seen: list[torch.Tensor] = []
    handle = made.model.multi_modal_projector.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    found = scores(made, batch, ENCODER, 1)
    handle.remove()
    norms = seen[0].norm(dim=-1)
    assert norms.shape == (5, 36)
    assert close(found, [norms[0], norms[:0].flatten(), norms[1:].flatten()], 1e-4)


def test_pooled_features_are_averaged_as_the_projector_does() -> None:
    batch, made = batch_of("gemma3"), model("gemma3")
    with torch.no_grad():
        states = made.model.vision_tower(batch["pixel_values"], return_dict=True).last_hidden_state
    norms = blocks(states).norm(dim=-1)
    assert close(scores(made, batch, ENCODER, 1), [norms[0], norms[1:].flatten()], 1e-4)


@pytest.mark.parametrize("name", ["llava_onevision", "onevision_shrunk"])
def test_packed_and_shrunk_features_line_up(name: str) -> None:
    batch, made = batch_of(name), model(name)
    expected = []
    for row, sample in zip(TINY[name].rows(SAMPLES[name]), SAMPLES[name], strict=True):
        if not sample.images:
            expected.append(torch.zeros(0))
            continue
        pixels = row.vision["pixel_values"]
        with torch.no_grad():
            tower = made.model.vision_tower
            states = [tower(p, output_hidden_states=True, return_dict=True).hidden_states[-1] for p in pixels]
        expected.append(torch.cat([packed(s, size, name) for s, size in zip(states, sample.images, strict=True)]))
    assert close(scores(made, batch, ENCODER, 1), expected, 1e-4)


def packed(tiles: torch.Tensor, size: tuple[int, int], name: str) -> torch.Tensor:
    """Norms of one image's tokens from the tower's states [T, 36, D]; a zero for each newline."""
    overview = tiles[0].norm(dim=-1)
    if len(tiles) == 1:
        return torch.cat([overview, torch.zeros(1)])
    high, wide = size[0] // SIDE, size[1] // SIDE
    picture = tiles[1:].view(high, wide, 6, 6, -1).permute(4, 0, 2, 1, 3).reshape(-1, 6 * high, 6 * wide)
    if name == "onevision_shrunk":
        shape = {WIDE: (4, 8), LARGE: (6, 6)}[size]
        picture = torch.nn.functional.interpolate(picture[None], shape, mode="bilinear")[0]
    norms = picture.norm(dim=0)
    return torch.cat([overview, torch.nn.functional.pad(norms, (0, 1)).flatten()])


@pytest.mark.parametrize("name", ["llava_onevision", "gemma3"])
def test_a_tower_without_a_class_token_says_so(name: str) -> None:
    with pytest.raises(BadInput, match="has no class token"):
        Session(model(name), policy(stage(2, "1/2", "encoder_attention")))


@pytest.mark.parametrize("name", ["llava_onevision", "internvl", "gemma3"])
def test_costs_count_what_tower_and_projector_execute(name: str) -> None:
    made, row = model(name, "eager"), TINY[name].rows([Sample(9, (ONE, ONE))])[0]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made.model.get_image_features(**row.vision)
    assert counter.get_total_flops() == tower_flops(geometry_of(made.config.to_dict()), 2)


def test_videos_are_left_alone() -> None:
    """Their placeholders are other tokens: nothing of a video is dropped, with and without an image beside it."""
    made = model("llava_onevision")
    row = TINY["llava_onevision"].rows([Sample(9, (WIDE,))])[0]
    frames = torch.randn(1, 2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    video = torch.full((2 * 9 + 1,), 6)
    halved = policy(stage(1, "1/2", "random"))
    for images in (False, True):
        before = row.tokens["input_ids"] if images else torch.tensor([11, 12, 13])
        ids = torch.cat([before, video, torch.tensor([14, 15])])[None]
        batch: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        batch |= {"pixel_values_videos": frames, **(row.vision if images else {})}
        with Session(made, halved) as session:
            found = generate(made, batch, 3)
        if not images:
            assert session.run.n == [0]
            assert torch.equal(found.logits[-1], seeded(made, batch, steps=3).logits[-1])
            continue
        columns = session.run.index(5)[0][0]
        assert set(range(ids.shape[1] - 21, ids.shape[1])) <= set(columns.tolist())
        assert (session.run.n, session.run.lengths[5]) == ([114], [57])  # 36 + 6 x (12 + 1)


def test_new_positions_are_refused_where_layers_turn_differently() -> None:
    compact = policy(stage(2, "1/2", "random", positions="compact"))
    with pytest.raises(BadInput, match="differ in their rotary embeddings"):
        Session(model("gemma3"), compact)
    unturned = policy(stage(2, "1/2", ("llm_attention", {"rope": False})))
    with pytest.raises(BadInput, match="cannot be undone"):
        Session(model("gemma3"), unturned)


def test_flash_attention_is_refused_with_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model("gemma3")
    monkeypatch.setattr(made.model.language_model.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(BadInput, match="sliding window"):
        Session(made, policy(stage(2, "1/2", "random")))
