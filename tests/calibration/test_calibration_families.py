"""Records of OneVision and InternVL through the processors those models are stored with, torchvision or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessorPil,
    PreTrainedTokenizerFast,
)

from autoprune.calibration.batches import collate
from autoprune.calibration.encoding import Encoder, load_processor
from autoprune.calibration.records import Record

PLACE, BEGIN, END = "<place>", "<begin>", "<end>"
WORDS = ("<pad>", "<bos>", "<eos>", "<unk>", "user", "assistant", ":", *(f"w{i}" for i in range(9)), PLACE, BEGIN, END)
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}user : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<place> {% else %}{{ c['text'] }}{% endif %}{% endfor %}{% else %} assistant : "
    "{{ m['content'][0]['text'] }}{% endif %}{% endfor %}{% if add_generation_prompt %} assistant :{% endif %}"
)
SIZES = ((48, 96), (96, 96), (40, 90))
SIDE = {"height": 48, "width": 48}
INTERNVL_TOKENS = {
    "start_image_token": BEGIN,
    "end_image_token": END,
    "context_image_token": PLACE,
    "video_token": "<unk>",
}


def save(name: str, folder: Path) -> None:
    """A processor as the hub stores it, each part in a file of its own."""
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens=INTERNVL_TOKENS if name == "InternVL" else {"image_token": PLACE, "video_token": "<unk>"},
    ).save_pretrained(folder)
    if name == "InternVL":
        config, images, kind = InternVLConfig(), GotOcr2ImageProcessorPil(size=SIDE, max_patches=4), "GotOcr2"
        settings: dict[str, Any] = {"image_seq_length": 36}
    else:
        pinpoints = [[48, 96], [96, 48], [96, 96]]
        images = LlavaOnevisionImageProcessorPil(size=SIDE, image_grid_pinpoints=pinpoints)
        config, kind = LlavaOnevisionConfig(), "LlavaOnevision"
        settings = {"num_image_tokens": 36, "vision_feature_select_strategy": "full"}
    config.save_pretrained(folder)
    both = {"processor_class": f"{name}Processor"}
    seen = {**json.loads(images.to_json_string()), "image_processor_type": f"{kind}ImageProcessor", **both}
    written = {
        "preprocessor_config": seen,
        "video_preprocessor_config": {"video_processor_type": f"{name}VideoProcessor", "size": SIDE},
        "processor_config": {**settings, **both},
    }
    for file, content in written.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    for number, size in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.mark.parametrize(
    ("name", "visual", "tiles"),
    [("LlavaOnevision", [114, 192, 74], [3, 5, 2]), ("InternVL", [108, 180, 216], [3, 5, 6])],
)
def test_rows_are_what_a_chat_becomes(name: str, visual: list[int], tiles: list[int], tmp_path: Path) -> None:
    """A chat's several images are not cut by OneVision, and so are a record's."""
    save(name, tmp_path)
    processor = load_processor(str(tmp_path))
    assert type(processor).__name__ == f"{name}Processor"
    encoder = Encoder(processor, WORDS.index(PLACE), (2,))
    rows = []
    for numbers in ((0,), (1,), (2, 0)):
        paths = tuple(str(tmp_path / f"{number}.png") for number in numbers)
        rows.append(encoder.row(Record("7", paths, prompt="w1 w2", answer="w3")))
        images = [{"type": "image", "path": path} for path in paths]
        chat = [{"role": "user", "content": [*images, {"type": "text", "text": "w1 w2"}]}]
        options: dict[str, Any] = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        expected = processor.apply_chat_template(chat, **options, return_tensors="pt")
        assert torch.equal(rows[-1].tokens["input_ids"], expected["input_ids"][0])
        for key, value in rows[-1].vision.items():
            assert torch.equal(value, expected[key])
    assert [row.visual for row in rows] == visual
    assert [row.tiles for row in rows] == tiles
    batch = collate(rows, [row.answer for row in rows], range(3), 0)
    if name == "LlavaOnevision":
        assert batch.inputs["pixel_values"].shape == (4, 5, 3, 48, 48)
        assert batch.inputs["batch_num_images"].tolist() == [1, 1, 2]
    else:
        assert batch.inputs["pixel_values"].shape == (14, 3, 48, 48)
