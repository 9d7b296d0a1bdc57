"""A tiny random LLaVA with a real processor on disk, and calibration records whose answers it sometimes gives."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from autoprune.measures.evaluator import ModelEvaluator, build
from autoprune.ports import CalibrationSource, MeasureRequest, WorkerSpec

WORDS = ("user", "assistant", ":", "?", *(f"w{i}" for i in range(40)))
VOCABULARY = ("<pad>", "<unk>", "<s>", "</s>", "<image>", *WORDS)
PAD, BOS, EOS, IMAGE = 0, 2, 3, 4
SIDE, PATCH = 48, 8
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}user : "
    "{% for c in m['content'] if c['type'] == 'image' %}<image> {% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}{% else %} assistant : "
    "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        chat_template=TEMPLATE,
    )


def save_model(folder: Path) -> str:
    """Random weights; the head's end-token row is long, so that greedy answers end soon."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        initializer_range=0.3,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=36)
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 2.5
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = PAD
    model.save_pretrained(folder)
    images = CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_center_crop=False
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    return str(folder)


@dataclass(frozen=True)
class Tiny:
    """Paths of the tiny model and its records."""

    model: str
    records: str

    def spec(self, *measures: MeasureRequest | str, **changes: Any) -> WorkerSpec:
        source = CalibrationSource(self.records, None, search=64, holdout=24, stratify_by="type", seed=1)
        wanted = tuple(MeasureRequest(m) if isinstance(m, str) else m for m in measures)
        return WorkerSpec(self.model, source, wanted, **{"batch_size": 16, "threads": 1, **changes})

    def build(self, *measures: MeasureRequest | str, **changes: Any) -> ModelEvaluator:
        return build(self.spec(*measures, **changes))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    model = save_model(folder / "model")
    lines = write_images(folder)
    blank = Tiny(model, write_records(folder / "blank.jsonl", lines))
    records = write_records(folder / "records.jsonl", with_answers(blank, lines))
    return Tiny(model, records)


def write_images(folder: Path) -> list[dict[str, Any]]:
    """Questions of different lengths, two per image, some about two images."""
    draw = random.Random(3)
    noise = np.random.default_rng(3)
    lines: list[dict[str, Any]] = []
    for number in range(48):
        pixels = noise.integers(0, 256, (6, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        for _ in range(2):
            words = " ".join(draw.choice(WORDS[4:]) for _ in range(draw.randint(1, 9)))
            images = [f"{number}.png"] * (2 if number % 8 == 0 else 1)
            lines.append({"images": images, "prompt": f"{words} ?", "answer": "w1", "type": f"t{number % 3}"})
    return lines


def with_answers(blank: Tiny, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Half of the answers are what the model says, the others nearly so."""
    evaluator = blank.build("exact_match")
    draw = random.Random(4)
    answered = []
    for split in ("search", "holdout"):
        data = evaluator._data[split]
        own = data.own_answers(len(data.records), 6)
        for record, tokens in zip(data.records, own, strict=True):
            words = [VOCABULARY[t] for t in tokens if t >= len(VOCABULARY) - 40]
            if not words or draw.random() < 0.4:
                words = [*words[:1], draw.choice(WORDS[4:])]
            answered.append({**lines[int(record.id) - 1], "answer": " ".join(words)})
    return answered


def write_records(path: Path, lines: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture(scope="session")
def records_file() -> Callable[[Path, list[dict[str, Any]]], str]:
    return write_records


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer()
