"""Fingerprints change exactly when the architecture, the weights or the adapters do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from autoprune.errors import BadInput
from autoprune.models import fingerprint, live_fingerprint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    torch.manual_seed(0)
    made = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=5))
    target = tmp_path_factory.mktemp("model")
    made.save_pretrained(target)
    return target


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_copy_is_the_same_model(folder: Path, copied: Path) -> None:
    assert fingerprint(copied) == fingerprint(folder)


def test_sharding_and_paths_do_not_matter(folder: Path, copied: Path) -> None:
    made = LlavaForConditionalGeneration.from_pretrained(folder)
    (copied / "model.safetensors").unlink()
    made.save_pretrained(copied, max_shard_size="2KB")
    assert len(list(copied.glob("*.safetensors"))) > 1
    assert fingerprint(copied) == fingerprint(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({min(t): t[min(t)] + 1}),  # values
        lambda t: t.update({min(t): t[min(t)].half()}),  # stored type
        lambda t: t.update({"renamed": t.pop(min(t))}),  # name
    ],
    ids=["values", "dtype", "name"],
)
def test_any_change_of_the_weights_shows(folder: Path, copied: Path, change: Any) -> None:
    tensors = load_file(copied / "model.safetensors")
    change(tensors)
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(copied).weights != fingerprint(folder).weights
    assert fingerprint(copied).architecture == fingerprint(folder).architecture


def test_reshaped_weights_show(folder: Path, copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    name = next(n for n, t in tensors.items() if t.ndim == 2 and t.shape[0] != t.shape[1])
    tensors[name] = tensors[name].reshape(tensors[name].shape[::-1])
    save_file(tensors, copied / "model.safetensors")
    assert fingerprint(copied).weights != fingerprint(folder).weights


def test_an_adapter_shows(folder: Path, copied: Path) -> None:
    save_file({"lora_A": torch.ones(2, 2)}, copied / "adapter_model.safetensors")
    first = fingerprint(copied).weights
    assert first != fingerprint(folder).weights
    save_file({"lora_A": torch.zeros(2, 2)}, copied / "adapter_model.safetensors")
    assert fingerprint(copied).weights not in (first, fingerprint(folder).weights)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"dtype": "float16", "transformers_version": "9.9", "_name_or_path": "elsewhere"}, True),
        ({"vision_feature_select_strategy": "full"}, False),
        ({"text_config": {"num_hidden_layers": 3}}, False),
        ({"vision_config": {"image_size": 24}}, False),
    ],
)
def test_the_architecture_is_what_decides_shapes_and_n(
    folder: Path, copied: Path, change: dict[str, Any], same: bool
) -> None:
    config = json.loads((copied / "config.json").read_text())
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (copied / "config.json").write_text(json.dumps(config))
    assert (fingerprint(copied).architecture == fingerprint(folder).architecture) == same


def test_processor_settings_that_change_n_show(folder: Path, copied: Path) -> None:
    (copied / "preprocessor_config.json").write_text(json.dumps({"crop_size": {"height": 16, "width": 16}}))
    assert fingerprint(copied).architecture == fingerprint(folder).architecture  # what the tower wants anyway
    (copied / "preprocessor_config.json").write_text(json.dumps({"crop_size": {"height": 8, "width": 16}}))
    assert fingerprint(copied).architecture != fingerprint(folder).architecture


def test_a_live_model_is_traced_to_its_folder(folder: Path) -> None:
    made = LlavaForConditionalGeneration.from_pretrained(folder)
    assert live_fingerprint(made) == fingerprint(folder)
    made.config._name_or_path = "/nowhere"
    live = live_fingerprint(made)
    assert live.architecture == fingerprint(folder).architecture
    assert live.weights == ""
    made.config._name_or_path = str(folder)
    made._hf_peft_config_loaded = True
    assert live_fingerprint(made).weights == ""


def test_files_are_read_again_only_when_they_change(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.models import fingerprint as module_function
    from autoprune.models.fingerprint import _read_entries

    module_function(copied)
    before = _read_entries.cache_info()
    module_function(copied)
    assert _read_entries.cache_info().misses == before.misses
    assert _read_entries.cache_info().hits == before.hits + 1


@pytest.mark.parametrize("damage", ["truncate", "header", "short"])
def test_corrupt_weights_are_bad_input(copied: Path, damage: str) -> None:
    path = copied / "model.safetensors"
    data = path.read_bytes()
    changed = {
        "truncate": data[:-100],
        "header": data[:8] + b"x" * 50 + data[58:],
        "short": b"abc",
    }[damage]
    path.write_bytes(changed)
    with pytest.raises(BadInput, match=r"model\.safetensors"):
        fingerprint(copied)


def test_a_hub_id_with_several_revisions_is_not_traced_to_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from autoprune.models.fingerprint import _folder_of

    cache = tmp_path / "models--own--vlm"
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    for commit in ("a" * 40, "b" * 40):
        (cache / "snapshots" / commit).mkdir(parents=True)
        (cache / "snapshots" / commit / "config.json").write_text("{}")
        if commit.startswith("a"):
            (cache / "refs").mkdir()
            (cache / "refs" / "main").write_text(commit)
            alone = _folder_of(SimpleNamespace(_name_or_path="own/vlm", _commit_hash=None))
            assert alone == cache / "snapshots" / commit
    assert _folder_of(SimpleNamespace(_name_or_path="own/vlm", _commit_hash=None)) is None
    named = _folder_of(SimpleNamespace(_name_or_path="own/vlm", _commit_hash="b" * 40))
    assert named == cache / "snapshots" / ("b" * 40)
