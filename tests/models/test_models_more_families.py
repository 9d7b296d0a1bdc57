"""LLaVA-OneVision, InternVL and Gemma 3: geometry and N from configs, layouts against hand-made packing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    InternVLConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from autoprune.errors import BadInput
from autoprune.measures.costs import tower_flops
from autoprune.models import family_of, fingerprint, geometry_of, live_fingerprint
from autoprune.models.family import ImageLayout

SIGLIP: dict[str, Any] = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304}
TOWER = {**SIGLIP, "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 896, "patch_size": 14}
ONEVISION: dict[str, Any] = {  # as the hub's config.json leaves defaults out
    "model_type": "llava_onevision",
    "image_token_index": 151646,
    "text_config": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152000,
    },
    "vision_config": {**TOWER, "num_hidden_layers": 26, "image_size": 384},
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
}
INTERNVL: dict[str, Any] = {
    "model_type": "internvl",
    "image_token_id": 151667,
    "image_seq_length": 256,
    "downsample_ratio": 0.5,
    "text_config": {**ONEVISION["text_config"], "vocab_size": 151674},
    "vision_config": {"model_type": "internvl_vision", "image_size": [448, 448], "patch_size": [14, 14]},
}
GEMMA: dict[str, Any] = {
    "model_type": "gemma3",
    "mm_tokens_per_image": 256,
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": TOWER,
}


def test_onevision_from_what_the_hub_stores() -> None:
    geometry, family = geometry_of(ONEVISION), family_of(ONEVISION)
    assert (geometry.family, geometry.depth, geometry.kv_heads, geometry.head_dim) == ("llava_onevision", 28, 4, 128)
    assert (geometry.vision.depth, geometry.vision.has_cls, geometry.projector_width) == (26, False, 1152)
    assert (geometry.tokens_per_image, geometry.merge_unit) == (None, 1)
    settings = family.token_settings(ONEVISION, {"num_image_tokens": 729, "image_processor": {"size": {"height": 384}}})
    assert (settings["overview_tokens"], settings["tile"], settings["aspect"]) == (729, (384, 384), "anyres_max_9")
    assert len(settings["pinpoints"]) == 36
    assert family.image_token({}) == 151646


def test_internvl_from_what_the_hub_stores() -> None:
    geometry, family = geometry_of(INTERNVL), family_of(INTERNVL)
    assert (geometry.vision.depth, geometry.vision.has_cls, geometry.vision.image_size) == (24, True, 448)
    assert (geometry.tokens_per_image, geometry.merge_unit, geometry.projector_width) == (None, 4, 4096)
    assert family.token_settings(INTERNVL, None)["tile_tokens"] == 256
    uncut = {"image_processor": {"max_patches": 1}}
    assert geometry_of(INTERNVL, uncut).tokens_per_image == 256
    rows = 256 * 2 * (4096 * 3584 + 3584**2)
    narrow = geometry_of({**INTERNVL, "text_config": {**INTERNVL["text_config"], "hidden_size": 7}})
    assert tower_flops(geometry, 1) - rows == tower_flops(narrow, 1) - 256 * 2 * (4096 * 7 + 49)


def test_gemma_from_what_the_hub_stores() -> None:
    geometry, family = geometry_of(GEMMA), family_of(GEMMA)
    assert (geometry.heads, geometry.kv_heads, geometry.head_dim, geometry.vocabulary) == (8, 4, 256, 262208)
    assert (geometry.tokens_per_image, geometry.merge_unit, geometry.projector_width) == (256, 16, 1152)
    assert geometry.projector_hidden == 0  # one matrix
    assert family.image_token(GEMMA) == 262144
    assert geometry_of(GEMMA, {"image_processor": {"do_pan_and_scan": True}}).tokens_per_image == 256  # ignored


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (ONEVISION, {"vision_feature_select_strategy": "default"}, "SigLIP has no class token"),
        (ONEVISION, {"text_config": {"model_type": "gemma3_text"}}, "'gemma3_text' is not supported; supported: qwen2"),
        (INTERNVL, {"vision_feature_select_strategy": "full"}, "class token has no place"),
        (INTERNVL, {"vision_feature_layer": [-1, -2]}, "one layer's features"),
        (INTERNVL, {"downsample_ratio": 0.3}, "does not divide 32 x 32 patches"),
        (INTERNVL, {"vision_config": {"image_size": [448, 224]}}, r"image_size: only squares.*\[448, 224\]"),
        (GEMMA, {"mm_tokens_per_image": 200}, "64 x 64 patches cannot be averaged to 200 tokens"),
        (GEMMA, {"text_config": {"use_bidirectional_attention": True}}, "does not answer"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(config: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        geometry_of({**config, **change})


@pytest.mark.parametrize(
    ("kind", "options"),
    [(LlavaOnevisionConfig, {}), (InternVLConfig, {}), (Gemma3Config, {"mm_tokens_per_image": 49})],
)
def test_defaults_that_a_config_leaves_out_are_the_librarys(kind: Any, options: dict[str, Any]) -> None:
    """The whole configuration, written out, has the geometry of one that says next to nothing. (Gemma's own number of
    tokens does not fit its default tower.)"""
    whole, bare = kind(**options).to_dict(), {"model_type": kind.model_type, **options}
    assert geometry_of(whole) == geometry_of(bare)
    assert family_of(bare).token_settings(bare, None) == family_of(whole).token_settings(whole, None)
    assert family_of(bare).image_token(bare) == kind().image_token_id


def onevision(aspect: str) -> Any:
    vision = SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=4
    )
    text = Qwen2Config(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=5,
        image_grid_pinpoints=[[24, 24], [24, 48], [48, 24], [48, 48]],
        vision_aspect_ratio=aspect,
    )
    torch.manual_seed(0)
    return LlavaOnevisionForConditionalGeneration(config).eval()


def layouts(made: Any, sizes: list[tuple[int, int]], together: bool = False) -> tuple[list[ImageLayout], Any, Any]:
    """Layouts, what the model packed, and the projector's rows."""
    found: list[list[ImageLayout]] = []
    rows: list[torch.Tensor] = []
    family = family_of(made.config.to_dict())
    pixels = torch.randn(len(sizes), 5, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    counts = torch.tensor([len(sizes)] if together else [1] * len(sizes))
    undo = family.watch(family.places(made), found.append)
    handle = made.model.multi_modal_projector.register_forward_hook(lambda m, a, o: rows.append(o))
    try:
        with torch.no_grad():
            out = made.model.get_image_features(
                pixels, torch.tensor(sizes), batch_num_images=counts, return_dict=True
            ).pooler_output
    finally:
        undo()
        handle.remove()
    assert "pack_image_features" not in vars(made.model)
    return list(found[-1]), out, rows[0].flatten(0, 1)


@pytest.mark.parametrize("aspect", ["anyres_max_9", "anyres_max_1", "anyres_max_2"])
@pytest.mark.parametrize("size", [(48, 48), (24, 40), (24, 32), (36, 48), (24, 24), (48, 30)])
def test_the_layout_says_of_what_every_token_is_made(aspect: str, size: tuple[int, int]) -> None:
    """Putting the projector's rows together as the layout says gives the model's packed features."""
    made = onevision(aspect)
    found, out, rows = layouts(made, [size, (48, 48)])
    for layout, tokens in zip(found, out, strict=True):
        members = layout.source.clamp(min=0)[:, None] if layout.members is None else layout.members
        weights = torch.ones(len(members), 1) if layout.weights is None else layout.weights
        mixed = (rows[members] * weights[..., None]).sum(1)
        newline = layout.source < 0
        mixed[newline] = made.model.image_newline
        assert torch.allclose(mixed, tokens, atol=1e-5)
        body, side = newline[36:], int(newline.sum())
        assert layout.segment.tolist() == [0] * 36 + [1] * len(body)
        wide = len(body) // side
        assert layout.row[36:].tolist() == [i // wide for i in range(len(body))]
        assert layout.column[36:].tolist() == [i % wide for i in range(len(body))]
        assert body.view(side, wide)[:, -1].all()
        if layout.weights is not None:
            assert torch.allclose(layout.weights.sum(1), (~newline).float())
            heaviest = members.gather(1, weights.argmax(1, keepdim=True))[:, 0]
            assert torch.equal(layout.source[~newline], heaviest[~newline])


def test_pictures_are_shrunk_only_where_they_are_too_large() -> None:
    wide, large = layouts(onevision("anyres_max_2"), [(24, 48), (48, 48)])[0]
    assert wide.members is None
    assert large.members is not None
    assert (wide.newlines, large.newlines) == (6, 8)


def test_images_in_company_are_one_tile_and_a_newline() -> None:
    found, out, _ = layouts(onevision("anyres_max_9"), [(24, 48), (48, 48)], together=True)
    for number, (layout, tokens) in enumerate(zip(found, out, strict=True)):
        assert len(tokens) == 37
        assert layout.source.tolist() == [*range(36 * number, 36 * number + 36), -1]
        assert (layout.tiles, set(layout.segment.tolist())) == (1, {0})
        assert layout.row.tolist() == [i // 6 for i in range(36)] + [5]
        assert layout.column.tolist() == [i % 6 for i in range(36)] + [6]


def test_a_live_model_is_traced_to_its_folder(tmp_path: Path) -> None:
    onevision("anyres_max_4").save_pretrained(tmp_path)
    live = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert live_fingerprint(live) == fingerprint(tmp_path)
    live.config.vision_aspect_ratio = "anyres_max_9"
    assert live_fingerprint(live).architecture != fingerprint(tmp_path).architecture
