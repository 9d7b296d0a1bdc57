"""Gemma 3 from disk with its own processor: token types in batches, sliding windows, images that see both ways."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)

from autoprune.calibration.batches import collate
from autoprune.measures.evaluator import ModelEvaluator, build
from autoprune.policy import canonical
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.ports import CalibrationSource, EvalRequest, MeasureRequest, WorkerSpec
from autoprune.pruning.session import Session

MEASURES = ("answer_nll", "exact_match", "logit_kl", "information_flow", "budget", "prefill_flops", "kv_bytes")
PLAIN = ("<pad>", "<bos>", "<eos>", "<unk>", "user", "model", ":", *(f"w{i}" for i in range(40)))
SPECIAL = {"boi_token": "<begin>", "eoi_token": "<end>", "image_token": "<soft>"}
WORDS = (*PLAIN, *SPECIAL.values())
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}user : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<begin> {% else %}{{ c['text'] }}{% endif %}{% endfor %}{% else %} model : "
    "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} model :{% endif %}"
)


def policy() -> ResolvedPolicy:
    def stage(layer: int, share: str, part: Part) -> ResolvedStage:
        return ResolvedStage(
            "llm", layer, Keep("fraction", Fraction(share)), (ResolvedPick(part, Part("top")),), Part("drop")
        )

    text = Part("llm_attention", {"layer": "prev", "from": "text"})
    return ResolvedPolicy((stage(0, "1/2", Part("feature_norm", {"space": "encoder"})), stage(2, "1/4", text)), 4)


def save(folder: Path) -> None:
    torch.manual_seed(0)
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=48, patch_size=4
    )
    text = Gemma3TextConfig(
        vocab_size=len(WORDS),
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        query_pre_attn_scalar=12,
        initializer_range=0.3,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"] * 2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    soft = WORDS.index("<soft>")
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(vision_config=vision, text_config=text, mm_tokens_per_image=36, image_token_index=soft)
    )
    with torch.no_grad():
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(std=0.5)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens=SPECIAL,
    )
    side = {"height": 48, "width": 48}
    images = Gemma3ImageProcessorPil(size=side)
    Gemma3Processor(images, tokenizer, chat_template=TEMPLATE, image_seq_length=36).save_pretrained(folder)


@pytest.fixture(scope="module")
def spec(
    tmp_path_factory: pytest.TempPathFactory, records_file: Callable[[Path, list[dict[str, Any]]], str]
) -> WorkerSpec:
    folder = tmp_path_factory.mktemp("gemma")
    save(folder)
    draw, lines = random.Random(0), []
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        words = " ".join(f"w{draw.randrange(40)}" for _ in range(draw.randint(1, 6)))
        images = [f"{number}.png"] * (1 + (number % 3 == 0))
        lines.append({"images": images, "prompt": words, "answer": f"w{number} w2"})
    source = CalibrationSource(records_file(folder / "r.jsonl", lines), None, 8, 4, None, 0)
    return WorkerSpec(str(folder), source, tuple(MeasureRequest(m) for m in MEASURES), batch_size=8, threads=1)


def test_ragged_batches_equal_singles_and_costs_equal_the_run(spec: WorkerSpec) -> None:
    evaluator = build(spec)
    loaded, data = evaluator.loaded, evaluator._data["search"]
    rows = data.rows(8)
    assert {row.visual for row in rows} == {36, 72}
    assert all(row.tokens["token_type_ids"].sum() == row.visual for row in rows)
    for row, cost in zip(rows, evaluator.sample_costs(policy(), data, 8), strict=True):
        with torch.inference_mode(), Session(loaded.model, policy()) as session:
            output = loaded.model(**collate([row], [()], [0], loaded.pad).inputs, use_cache=True)
        assert tuple(layer[0] for layer in session.run.lengths) == cost.visual
        stored = sum(p.untyped_storage().nbytes() for c in output.past_key_values.layers for p in (c.keys, c.values))
        assert stored == cost.kv_bytes
    request = EvalRequest(canonical.to_json(policy()), "search", MEASURES)
    many = evaluator.evaluate(request)
    single = ModelEvaluator(loaded, evaluator._data, evaluator._measures, 1).evaluate(request)
    for label, numbers in many.samples.items():
        assert single.samples[label] == pytest.approx(numbers, rel=1e-4, abs=1e-5)
    assert many.values["budget"] == pytest.approx((2 * 1 / 2 + 2 * 1 / 4) / 4)
