"""Records of OneVision and InternVL through the processors those models are stored with, torchvision or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import torch
from PIL import Image
from tiny_families import IMAGE, SIDE, model

from autoprune.calibration.batches import collate
from autoprune.calibration.encoding import Encoder, load_processor
from autoprune.calibration.records import Record

SIZES = ((48, 96), (96, 96), (40, 90))


def save(name: str, folder: Path) -> None:
    """A processor as the hub stores it, each part in a file of its own."""
    made, videos = tiny_checkpoints.processor(name), tiny_checkpoints.SAVED[name].videos
    made.tokenizer.save_pretrained(folder)
    model(name).config.save_pretrained(folder)
    both = {"processor_class": type(made).__name__}
    written = {
        "preprocessor_config": {**json.loads(made.image_processor.to_json_string()), **both},
        "video_preprocessor_config": {"video_processor_type": videos, "size": {"height": SIDE, "width": SIDE}},
        "processor_config": {**tiny_checkpoints.SAVED[name].options, **both},
    }
    for file, content in written.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text(made.chat_template)
    for number, size in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.mark.parametrize(
    ("name", "visual", "tiles"),
    [("llava_onevision", [114, 192, 74], [3, 5, 2]), ("internvl", [108, 180, 216], [3, 5, 6])],
)
def test_rows_are_what_a_chat_becomes(name: str, visual: list[int], tiles: list[int], tmp_path: Path) -> None:
    """A chat's several images are not cut by OneVision, and so are a record's."""
    save(name, tmp_path)
    processor = load_processor(str(tmp_path))
    assert type(processor).__name__ == tiny_checkpoints.SAVED[name].kind.__name__
    encoder = Encoder(processor, IMAGE, (2,))
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
    if name == "llava_onevision":
        assert batch.inputs["pixel_values"].shape == (4, 5, 3, 48, 48)
        assert batch.inputs["batch_num_images"].tolist() == [1, 1, 2]
    else:
        assert batch.inputs["pixel_values"].shape == (14, 3, 48, 48)
