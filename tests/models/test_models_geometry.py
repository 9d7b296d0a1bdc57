"""Geometry from config files alone, held against the library's own configuration classes and models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoprune.errors import BadInput
from autoprune.models import family_of, geometry_of, read_geometry
from autoprune.models.defaults import (
    LLAVA_NEXT_PINPOINTS,
    LLAVA_TOWER,
    ONEVISION_PINPOINTS,
    ONEVISION_TOWER,
    TEXT,
    VISION,
)

LLAVA_15 = {  # as the hub's config.json leaves defaults out
    "model_type": "llava",
    "image_token_index": 32000,
    "text_config": {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096},
    "vision_config": dict(LLAVA_TOWER),
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}


def test_llava_15_from_what_the_hub_stores() -> None:
    geometry = geometry_of(LLAVA_15)
    assert (geometry.family, geometry.depth, geometry.width, geometry.mlp) == ("llava", 32, 4096, 11008)
    assert (geometry.heads, geometry.kv_heads, geometry.head_dim, geometry.vocabulary) == (32, 32, 128, 32064)
    assert (geometry.vision.depth, geometry.vision.width, geometry.vision.has_cls) == (24, 1024, True)
    assert geometry.tokens_per_image == 576
    assert geometry.projector_width == 1024


def test_the_processor_decides_n() -> None:
    small = {"image_processor": {"crop_size": {"height": 224, "width": 168}}, "patch_size": 14}
    assert geometry_of(LLAVA_15, small).tokens_per_image == 16 * 12 + 1 - 1
    full = {**small, "vision_feature_select_strategy": "full", "num_additional_image_tokens": 1}
    assert geometry_of(LLAVA_15, full).tokens_per_image == 16 * 12 + 1
    assert geometry_of(LLAVA_15, {**full, "num_additional_image_tokens": 0}).tokens_per_image == 16 * 12


def test_llava_next_has_no_fixed_n() -> None:
    mistral = {**LLAVA_15, "model_type": "llava_next", "text_config": {"model_type": "mistral"}}
    geometry = geometry_of(mistral)
    assert geometry.tokens_per_image is None
    assert (geometry.kv_heads, geometry.mlp) == (8, 14336)
    null = {**mistral, "text_config": {"model_type": "mistral", "num_key_value_heads": None}}
    assert geometry_of(null).kv_heads == 32  # as the library reads it


def test_a_tower_without_cls() -> None:
    siglip = {**LLAVA_15, "vision_config": {"model_type": "siglip_vision_model", "image_size": 224, "patch_size": 16}}
    siglip["vision_feature_select_strategy"] = "full"
    geometry = geometry_of(siglip)
    assert not geometry.vision.has_cls
    assert geometry.tokens_per_image == 196


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "lava"}, "'lava' is not supported .did you mean 'llava'.*supported: .*llava, llava_next"),
        ({"model_type": None}, "None is not supported; supported: .*llava, llava_next"),
        ({"text_config": {"model_type": "gemma3_text"}}, "text_config.model_type 'gemma3_text' is not supported"),
        ({"vision_config": {"model_type": "pixtral"}}, "vision_config.model_type 'pixtral' is not supported"),
        ({"text_config": {"hidden_size": "wide"}}, "text_config.hidden_size: expected a positive integer"),
        ({"vision_config": {"patch_size": 0}}, "vision_config.patch_size: expected a positive integer, found 0"),
        ({"vision_feature_select_strategy": "half"}, "expected 'default' or 'full', found 'half'"),
    ],
)
def test_unusable_configs_are_refused_with_what_is_supported(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        geometry_of({**LLAVA_15, **change})


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such model folder"):
        read_geometry(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"has no config\.json"):
        read_geometry(tmp_path)
    with pytest.raises(BadInput, match="neither a local folder nor in the hub cache"):
        read_geometry("someone/never-downloaded-this")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read as JSON"):
        read_geometry(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadInput, match="expected a JSON object"):
        read_geometry(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAVA_15))
    assert read_geometry(tmp_path).tokens_per_image == 576
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"crop_size": {"height": 168, "width": 168}}))
    assert read_geometry(tmp_path).tokens_per_image == 144
    processor = {"processor_class": "LlavaProcessor", "image_processor": {"crop_size": {"height": 42, "width": 42}}}
    (tmp_path / "processor_config.json").write_text(json.dumps(processor))
    assert read_geometry(tmp_path).tokens_per_image == 9  # the newer file wins


def test_the_hub_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--someone--model" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(LLAVA_15))
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert read_geometry("someone/model").depth == 32
    from autoprune.models import fingerprint

    assert fingerprint("someone/model").revision == "a" * 40


def test_geometry_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAVA_15))
    code = (
        "import sys, autoprune.models as m; m.read_geometry(sys.argv[1]); m.fingerprint(sys.argv[1]);"
        "print([n for n in ('torch', 'transformers', 'optuna', 'ray', 'mlflow') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_table_of_defaults_is_the_librarys() -> None:
    import transformers

    classes = {
        "llama": transformers.LlamaConfig,
        "mistral": transformers.MistralConfig,
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
        "gemma3_text": transformers.Gemma3TextConfig,
        "clip_vision_model": transformers.CLIPVisionConfig,
        "siglip_vision_model": transformers.SiglipVisionConfig,
        "internvl_vision": transformers.InternVLVisionConfig,
    }
    assert classes.keys() == TEXT.keys() | VISION.keys()
    for kind, values in {**TEXT, **VISION}.items():
        made = classes[kind]()
        for key, value in values.items():
            if value is None:  # derived from other values when the class is built
                width = made.hidden_size // made.num_attention_heads
                derived = {"num_key_value_heads": made.num_attention_heads, "head_dim": width}[key]
                assert (getattr(made, key, None) or derived) == derived
            else:
                assert getattr(made, key) == value, (kind, key)
    tower = transformers.LlavaConfig().vision_config
    assert all(getattr(tower, key) == value for key, value in LLAVA_TOWER.items())
    pinpoints = transformers.LlavaNextConfig().image_grid_pinpoints
    assert tuple(map(tuple, pinpoints)) == LLAVA_NEXT_PINPOINTS
    onevision = transformers.LlavaOnevisionConfig()
    assert all(getattr(onevision.vision_config, key) == value for key, value in ONEVISION_TOWER.items())
    assert tuple(map(tuple, onevision.image_grid_pinpoints)) == ONEVISION_PINPOINTS


def test_families_know_their_placeholder() -> None:
    assert family_of(LLAVA_15).image_token(LLAVA_15) == 32000
    assert family_of(LLAVA_15).image_token({"image_token_id": 7}) == 7
