"""Qwen-VL: numbers from config files against the library's classes, real modules and counted operations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from autoprune.errors import BadInput, PolicyMismatch
from autoprune.measures.costs import costs, picture_flops
from autoprune.models import family_of, fingerprint, geometry_of, live_fingerprint
from autoprune.models.defaults import QWEN2_5_FULL_BLOCKS, QWEN3_DEEPSTACK, QWEN_TEXT, QWEN_VISION
from autoprune.policy.resolved import ResolvedPolicy

CLASSES: dict[str, tuple[Any, Any]] = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
}
OLDER = {  # as the hub's files of the 7B model: the decoder's numbers beside vision_config
    "model_type": "qwen2_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {"model_type": "qwen2_vl", "in_chans": 3, "hidden_size": 3584, "spatial_patch_size": 14},
}
TEXT = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0},
}
TOWERS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"depth": 3, "embed_dim": 16, "hidden_size": 48, "mlp_ratio": 2, "num_heads": 2, "patch_size": 4},
    "qwen2_5_vl": {
        "depth": 4,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": 48,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    },
    "qwen3_vl": {
        "depth": 3,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": 48,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 2],
    },
}


STACK = {"deepstack_visual_indexes": [0, 1]}
WHERE = {"window_size": ["qwen2_5_vl"], "fullatt_block_indexes": ["qwen2_5_vl"], min(STACK): ["qwen3_vl"]}


def build(name: str) -> Any:
    config, kind = CLASSES[name]
    torch.manual_seed(0)
    text = {**TEXT, "head_dim": 16} if name == "qwen3_vl" else dict(TEXT)
    made = config(text_config=text, vision_config=dict(TOWERS[name]), image_token_id=5)
    return kind._from_config(made, attn_implementation="eager").eval()


@pytest.mark.parametrize("name", CLASSES)
def test_defaults_are_the_librarys(name: str) -> None:
    config = CLASSES[name][0]()
    tables = ((QWEN_TEXT, f"{name}_text", config.text_config), (QWEN_VISION, f"{name}_vision", config.vision_config))
    for table, kind, made in tables:
        assert made.model_type == kind
        assert {key: getattr(made, key) for key in table[kind]} == dict(table[kind])
    assert config.image_token_id == family_of({"model_type": name}).image_token({})
    if name == "qwen2_5_vl":
        assert tuple(config.vision_config.fullatt_block_indexes) == QWEN2_5_FULL_BLOCKS
    if name == "qwen3_vl":
        assert tuple(config.vision_config.deepstack_visual_indexes) == QWEN3_DEEPSTACK


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_written_and_what_is_left_out_mean_the_same(name: str) -> None:
    everything = CLASSES[name][0]().to_dict()
    assert geometry_of(everything) == geometry_of({"model_type": name})


def test_older_files_keep_the_decoder_beside_the_tower() -> None:
    geometry = geometry_of(OLDER)
    newer = CLASSES["qwen2_vl"][0](**{k: v for k, v in OLDER.items() if k != "model_type"}).to_dict()
    assert geometry == geometry_of(newer)
    assert (geometry.depth, geometry.width, geometry.heads, geometry.kv_heads) == (28, 3584, 28, 4)
    assert (geometry.head_dim, geometry.mlp, geometry.vocabulary) == (128, 18944, 152064)
    assert (geometry.vision.depth, geometry.vision.width, geometry.vision.mlp) == (32, 1280, 5120)
    assert (geometry.tokens_per_image, geometry.merge_unit, geometry.projector_width) == (None, 4, 5120)
    assert not geometry.vision.has_cls
    assert not geometry.protects_newlines


@pytest.mark.parametrize("name", CLASSES)
def test_geometry_is_the_modules_shapes(name: str) -> None:
    made = build(name)
    geometry, places = geometry_of(made.config.to_dict()), family_of({"model_type": name}).places(made)
    vision: Any = geometry.vision
    assert (len(places.layers), len(places.blocks), places.unit**2) == (geometry.depth, vision.depth, 4)
    layer: Any = places.layers[0]
    assert layer.self_attn.k_proj.weight.shape == (geometry.kv_heads * geometry.head_dim, geometry.width)
    assert layer.mlp.up_proj.weight.shape == (geometry.mlp, geometry.width)
    block: Any = places.blocks[0]
    assert getattr(block, places.attention).proj.weight.shape == (vision.width, vision.width)
    up = block.mlp.up_proj if vision.gated_mlp else first_linear(block.mlp)
    assert up.weight.shape == (vision.mlp, vision.width)
    merger: Any = places.projector
    entry, end = [m for m in merger.modules() if isinstance(m, torch.nn.Linear)]
    assert entry.weight.shape == (geometry.projector_hidden, geometry.projector_width)
    assert end.weight.shape == (geometry.width, geometry.projector_hidden)
    mergers = [m for m in made.model.visual.modules() if type(m) is type(merger)]
    assert len(mergers) == 1 + len(vision.deepstack)
    assert family_of({"model_type": name}).image_token(made.config.to_dict()) == 5


def first_linear(module: torch.nn.Module) -> Any:
    return next(m for m in module.modules() if isinstance(m, torch.nn.Linear))


@pytest.mark.parametrize("grid", [(4, 4), (6, 10), (8, 8), (2, 18)])
@pytest.mark.parametrize("name", CLASSES)
def test_a_picture_costs_what_the_tower_executes(name: str, grid: tuple[int, int]) -> None:
    """Counted by torch, matrix product by matrix product; windows of 4 x 4 patches do not fit everywhere."""
    made = build(name)
    pixels = torch.randn(grid[0] * grid[1], 3 * 2 * 16)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made.model.visual(pixels, grid_thw=torch.tensor([[1, *grid]]))
    assert counter.get_total_flops() == picture_flops(geometry_of(made.config.to_dict()), grid)


@pytest.mark.parametrize("name", CLASSES)
def test_pictures_of_any_size_have_to_be_described(name: str) -> None:
    geometry = geometry_of(build(name).config.to_dict())
    whole = ResolvedPolicy((), geometry.depth)
    small, large, both = costs(whole, geometry, [4, 15, 19], [7] * 3, 4, [((4, 4),), ((6, 10),), ((4, 4), (6, 10))])
    tower = small.prefill_flops - costs(whole, geometry, [4], [7], 4, [0])[0].prefill_flops
    assert tower == picture_flops(geometry, (4, 4))
    assert both.kv_bytes - large.kv_bytes == 4 * small.kv_bytes // 11
    with pytest.raises(BadInput, match="say how many pictures"):
        costs(whole, geometry, [4], [7], 4)
    with pytest.raises(BadInput, match="say how many patches high and wide"):
        costs(whole, geometry, [4], [7], 4, [1])


@pytest.mark.parametrize(
    ("processor", "pixels"),
    [
        (None, [3136, 1003520]),
        ({"image_processor": {"min_pixels": 64, "max_pixels": 4096}}, [64, 4096]),
        ({"image_processor": {"size": {"shortest_edge": 64, "longest_edge": 512}}}, [64, 512]),
        ({"min_pixels": None, "max_pixels": 99, "size": {"shortest_edge": 7, "longest_edge": 8}}, [7, 99]),
    ],
)
def test_the_bounds_of_resizing_decide_n(processor: Any, pixels: list[int]) -> None:
    found = family_of(OLDER).token_settings(OLDER, processor)
    assert found == {"pixels": pixels, "patch": 14, "merge": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_config": {"model_type": "llama"}}, "text_config.model_type 'llama' is not supported"),
        ({"text_config": {"hidden_size": 0}}, "text_config.hidden_size: expected a positive integer"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "'siglip_vision_model' is not supported"),
        ({"vision_config": {"depth": "deep"}}, "vision_config.depth: expected a positive integer, found 'deep'"),
        ({"vision_config": {"fullatt_block_indexes": 7}}, "fullatt_block_indexes: expected block numbers, found 7"),
    ],
)
def test_unusable_configs_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        geometry_of({"model_type": "qwen2_5_vl", **change})


def test_another_model_is_not_taken_for_one() -> None:
    with pytest.raises(PolicyMismatch, match="Linear has no 'visual'"):
        family_of(OLDER).places(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("name", CLASSES)
def test_fingerprints_follow_architecture_weights_and_resizing(name: str, tmp_path: Path) -> None:
    folder, made = tmp_path / "model", build(name)
    made.save_pretrained(folder)
    first = fingerprint(folder)
    assert live_fingerprint(CLASSES[name][1].from_pretrained(folder)) == first
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copied / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 3136, "max_pixels": 1003520}))
    assert fingerprint(copied) == first  # the library's own bounds, written down
    (copied / "preprocessor_config.json").write_text(json.dumps({"max_pixels": 4096}))
    assert fingerprint(copied).architecture != first.architecture
    (copied / "preprocessor_config.json").unlink()
    config = json.loads((copied / "config.json").read_text())
    for change in ({"depth": 2}, {"num_heads": 4}, {"window_size": 8}, {"fullatt_block_indexes": [2]}, STACK):
        changed = {**config, "vision_config": {**config["vision_config"], **change}}
        (copied / "config.json").write_text(json.dumps(changed))
        relevant = name in WHERE.get(min(change), CLASSES)
        assert (fingerprint(copied).architecture != first.architecture) == relevant
    with torch.no_grad():
        first_linear(made.model.visual.merger).weight[0, 0] += 1
    made.save_pretrained(copied)
    assert fingerprint(copied).architecture == first.architecture
    assert fingerprint(copied).weights != first.weights
