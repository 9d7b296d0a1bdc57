"""A new family is one file: with `tests/data/families/vipllava.py` in the room of models, everything works."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
import tiny_families
import torch
from conftest_cli import cli
from PIL import Image
from tiny_families import IMAGE, ODD, ONE, SIDE, Batch, Sample, Size, Tiny, text, tower
from transformers import CLIPVisionConfig, LlamaConfig, VipLlavaConfig, VipLlavaForConditionalGeneration

from autoprune import models
from autoprune.errors import BadInput
from autoprune.models.family import families, family_of

ROOT = Path(__file__).resolve().parents[1]
PATCHES = (SIDE // 8) ** 2
POLICY = """\
schema: autoprune/policy/1
stages:
  - {at: projector, keep: 1/2, score: {encoder_attention: {layer: -2, from: cls}}, merge: nearest}
  - {at: "llm:1/2", keep: 1/6, score: {llm_attention: {from: text}}}
"""


def build(attention: str) -> Any:
    config = VipLlavaConfig(
        vision_config=tower(CLIPVisionConfig, 8),
        text_config=text(LlamaConfig),
        image_token_index=IMAGE,
        vision_feature_layers=[-1, -3],
        image_seq_length=PATCHES,
    )
    return VipLlavaForConditionalGeneration._from_config(config, attn_implementation=attention)


def see(made: Any, sizes: Sequence[Size], generator: torch.Generator) -> tuple[Batch, list[int]]:
    return {"pixel_values": torch.randn(len(sizes), 3, SIDE, SIDE, generator=generator)}, [PATCHES] * len(sizes)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The family's file is there; -> its name."""
    monkeypatch.syspath_prepend(str(ROOT / "pruning"))  # where the shared checks are
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(ROOT / "data" / "families")])
    tiny = Tiny("vipllava", build, see, (Sample(9, (ONE,)), Sample(15, (ONE, ONE))), ODD)
    monkeypatch.setitem(tiny_families.TINY, tiny.name, tiny)
    monkeypatch.setitem(tiny_checkpoints.SAVED, tiny.name, tiny_checkpoints.SAVED["llava"])
    families.cache_clear()
    yield tiny.name
    families.cache_clear()
    sys.modules.pop("autoprune.models.vipllava", None)


def test_without_its_file_a_family_is_not_known() -> None:
    with pytest.raises(BadInput, match="model family 'vipllava' is not supported"):
        family_of({"model_type": "vipllava"})


def test_the_shared_checks_pass(known: str) -> None:
    import family_checks as checks
    from pruning_support import policy, stage

    resolved = policy(
        stage(0, "1/2", ("encoder_attention", {"from": "cls"}), merge="nearest"),
        stage(3, "1/4", ("llm_attention", {"from": "text"}), positions="compact"),
    )
    dropping = policy(stage(0, "1/2", ("feature_norm", {"space": "encoder"})), stage(3, "1/4", "llm_attention"))
    checks.check_keeping_everything(known, "sdpa", policy(stage(0, 1, "random", merge="nearest")))
    checks.check_dropping_is_masking(known, "sdpa", dropping, steps=3)
    checks.check_a_batch_is_its_samples(known, "sdpa", resolved, tiny_families.TINY[known].odd)
    checks.check_the_budget_is_what_the_layers_saw(known, resolved)
    checks.check_detaching_restores_the_model(known, resolved)
    checks.check_a_forced_pass_is_the_generation(known, dropping)
    checks.check_later_turns(known, dropping)


def test_a_checkpoint_answers_with_a_policy(known: str, tmp_path: Path) -> None:
    folder = tiny_checkpoints.save(known, tmp_path / "model")
    (tmp_path / "policy.yaml").write_text(POLICY)
    Image.new("RGB", (70, 50), (90, 20, 160)).save(tmp_path / "image.png")
    asked = ["--model", str(folder), "--image", str(tmp_path / "image.png"), "--prompt", "w3 ?"]
    done = cli("run", str(tmp_path / "policy.yaml"), *asked, "--max-new-tokens", "2", "--json")
    assert done.code == 0, done.out
    assert done.json["tokens"] == PATCHES
    assert done.json["tokens_per_layer"] == [18, 18, 18, 6, 6, 6]


def test_what_it_lacks_is_refused_with_its_reason(known: str, tmp_path: Path) -> None:
    folder = tiny_checkpoints.save(known, tmp_path / "model")
    (tmp_path / "policy.yaml").write_text(POLICY.replace("{encoder_attention: {layer: -2, from: cls}}", "sensitivity"))
    Image.new("RGB", (48, 48)).save(tmp_path / "image.png")
    asked = ["--model", str(folder), "--image", str(tmp_path / "image.png"), "--prompt", "w3 ?"]
    done = cli("run", str(tmp_path / "policy.yaml"), *asked, "--json")
    assert done.code == 2
    assert "sensitivity needs a projector whose Jacobian has a known closed form" in done.json["errors"][0]["message"]
