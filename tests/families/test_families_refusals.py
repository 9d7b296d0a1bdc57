"""What a family cannot do is said by `autoprune validate`, where it is written, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from conftest_cli import cli
from test_families_search import write_images, write_records
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2_5_VLTextConfig,
    Qwen2Config,
    Qwen2VLTextConfig,
    Qwen3Config,
    Qwen3VLTextConfig,
)

from autoprune.models.limits import windowed
from autoprune.pruning.refuse import _has_window

FAMILIES = tuple(tiny_checkpoints.SAVED)
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SPEC = """\
schema: autoprune/spec/1
name: case
model:
  path: {family}
  attn_implementation: sdpa
calibration: {{records: {family}.jsonl, search: 6, holdout: 4}}
search_space:
  schema: autoprune/space/1
  stages:
    - {{at: "llm:1", keep: {{float: [0.4, 0.9]}}, score: random}}
    - {{at: "llm:1/2", keep: 1/8, score: {{llm_attention: {{from: last}}}}}}
objectives: [minimize prefill_flops]
"""
FIRST, SECOND, ATTENTION = 10, 11, 5
NO_CLS = "no class token; `without_cls: all` (attention a patch receives) or"
NO_TOKEN = "no class token"
NO_PICTURES = "patch_entropy needs whole pictures"
WINDOW = "FlashAttention measures a sliding window in physical distance"
AXES = "multi-axis RoPE (M-RoPE): tokens have no single position"
LAYERED = "layers differ in their rotary embeddings"
# Text replaced by text; line of the message; families that refuse it -> what they say. The others take it.
CASES: dict[str, tuple[str, str, int, dict[str, str]]] = {
    "flash attention": ("sdpa", "flash_attention_2", ATTENTION, {"gemma3": WINDOW}),
    "compact": (
        "score: random",
        "score: random, positions: compact",
        FIRST,
        {**dict.fromkeys(QWEN, AXES), "gemma3": LAYERED},
    ),
    "cls": (
        "score: random",
        "score: {encoder_attention: {from: cls}}",
        FIRST,
        dict.fromkeys((*QWEN, "gemma3", "llava_onevision"), NO_CLS),
    ),
    "cls in a choice": (
        "score: random",
        "score: {choice: [random, {encoder_attention: {from: cls}}]}",
        FIRST,
        dict.fromkeys((*QWEN, "gemma3", "llava_onevision"), NO_CLS),
    ),
    "rope": (
        "{llm_attention: {from: last}}",
        "{llm_attention: {from: last, rope: false}}",
        SECOND,
        {"gemma3": "rotary embeddings, which cannot be undone"},
    ),
    "cls where all may stay": (
        "keep: {float: [0.4, 0.9]}, score: random",
        "keep: {float: [0.4, 1.0]}, score: {encoder_attention: {from: cls}}",
        FIRST,
        dict.fromkeys((*QWEN, "gemma3", "llava_onevision"), NO_CLS),
    ),
    "a part of a mix": (
        "score: random",
        "score: {mix: {weights: {weights: [random, lattice, patch_entropy]}}}",
        FIRST,
        dict.fromkeys(QWEN, NO_PICTURES),
    ),
    "sensitivity": (
        "score: {llm_attention: {from: last}}",
        "score: sensitivity",
        SECOND,
        {},
    ),
    "patch entropy": (
        "score: {llm_attention: {from: last}}",
        "score: {mix: {weights: {patch_entropy: 1, random: 1}}}",
        SECOND,
        dict.fromkeys(QWEN, NO_PICTURES),
    ),
    "a later stage's criterion": (
        "score: {llm_attention: {from: last}}",
        "pick: [{share: 1/2, score: patch_entropy}, {score: random}]",
        SECOND,
        dict.fromkeys(QWEN, NO_PICTURES),
    ),
    "a policy to begin with": (
        "  stages:",
        "  warm_start: [divprune, sparsity_meets_similarity]\n  stages:",
        9,
        dict.fromkeys((*QWEN, "gemma3", "llava_onevision"), NO_TOKEN),
    ),
    "a decoder layer": ("llm:1/2", "llm:6", SECOND, dict.fromkeys(FAMILIES, "llm:6 is beyond the model")),
    "an encoder block": (
        "score: random",
        "score: {encoder_attention: {layer: 3, from: all}}",
        FIRST,
        dict.fromkeys(FAMILIES, "block 3"),
    ),
    "a row at the projector": (
        'at: "llm:1", keep: {float: [0.4, 0.9]}, score: random',
        "at: projector, keep: {float: [0.4, 0.9]}, score: {llm_attention: {from: last}}",
        FIRST,
        dict.fromkeys(FAMILIES, "projector"),
    ),
    "rows that enter the projector": (
        'at: "llm:1", keep: {float: [0.4, 0.9]}, score: random',
        "at: projector, keep: {float: [0.4, 0.9]}, score: random, merge: soft, merge_on: encoder",
        FIRST,
        dict.fromkeys((*QWEN, "internvl", "gemma3"), "one row of the tower; this model's makes it of several"),
    ),
    "a layer before the first": (
        'at: "llm:1", keep: {float: [0.4, 0.9]}, score: random',
        "at: input, keep: {float: [0.4, 0.9]}, score: {llm_attention: {layer: prev, from: last}}",
        FIRST,
        dict.fromkeys(FAMILIES, "llm:0"),
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints without weights: nothing of them is read."""
    folder = tmp_path_factory.mktemp("refusals")
    write_images(folder)
    for name, saved in tiny_checkpoints.SAVED.items():
        tiny_checkpoints.save(name, folder / name)
        (folder / name / "model.safetensors").unlink()
        write_records(folder / f"{name}.jsonl", saved.place)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_cases_start_from_is_good(family: str, root: Path) -> None:
    (root / "spec.yaml").write_text(SPEC.format(family=family))
    done = cli("validate", str(root / "spec.yaml"), "--json")
    assert done.code == 0, done.out


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_is_refused_where_it_is_written(case: str, family: str, root: Path) -> None:
    old, new, line, refused = CASES[case]
    text = SPEC.format(family=family)
    assert old in text
    spec = root / "spec.yaml"
    spec.write_text(text.replace(old, new))
    done = cli("validate", str(spec), "--json")
    if family not in refused:
        assert done.code == 0, done.out
        return
    assert done.code == 2
    (error,) = done.json["errors"]
    assert refused[family] in error["message"]
    assert error["file"] == str(spec)
    assert error["line"] == line
    written = {ATTENTION: "model.attn_implementation", 9: "search_space.warm_start[1]"}
    assert error["path"].startswith(written.get(line, f"search_space.stages[{line - FIRST}]"))


def test_a_bias_that_flash_attention_has_no_input_for(root: Path) -> None:
    text = SPEC.format(family="llava").replace("sdpa", "flash_attention_2")
    (root / "spec.yaml").write_text(text.replace("score: random", "score: random, merge: nearest, attend: mass"))
    done = cli("validate", str(root / "spec.yaml"), "--json")
    (error,) = done.json["errors"]
    assert (error["line"], error["path"]) == (FIRST, "search_space.stages[0].attend")
    assert "FlashAttention has no input" in error["message"]


CONFIGURATIONS: list[Any] = [
    LlamaConfig(),
    MistralConfig(),
    MistralConfig(sliding_window=None),
    Qwen2Config(),
    Qwen2Config(use_sliding_window=True, max_window_layers=2, num_hidden_layers=4),
    Qwen2Config(use_sliding_window=True, num_hidden_layers=40),
    Qwen2Config(use_sliding_window=True, num_hidden_layers=28),
    Qwen3Config(use_sliding_window=True, sliding_window=None),
    Qwen2VLTextConfig(),
    Qwen2VLTextConfig(use_sliding_window=True, max_window_layers=3, num_hidden_layers=4),
    Qwen2VLTextConfig(use_sliding_window=True, num_hidden_layers=28),
    Qwen2_5_VLTextConfig(use_sliding_window=True, num_hidden_layers=81),
    Qwen3VLTextConfig(),
    Gemma3TextConfig(),
    Gemma3TextConfig(layer_types=["full_attention"] * 26),
]


@pytest.mark.parametrize("written", ["what differs", "all"])
@pytest.mark.parametrize("config", CONFIGURATIONS, ids=lambda c: f"{c.model_type}-{c.num_hidden_layers}")
def test_windows_are_known_from_what_is_written(config: Any, written: str) -> None:
    """As the library's own configuration, made of it, says."""
    given = config.to_diff_dict() if written == "what differs" else config.to_dict()
    assert windowed(config.model_type, given, config.num_hidden_layers) == _has_window(config)
