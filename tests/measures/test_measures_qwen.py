"""Images of any size: a Qwen2-VL checkpoint with its own processor, from records to measures."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import torch
from PIL import Image
from tiny_families import LAYERS
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLProcessor, Qwen2VLProcessor, Qwen3VLProcessor

from autoprune.calibration import image_only
from autoprune.calibration.batches import collate
from autoprune.calibration.encoding import load_processor
from autoprune.measures.costs import tower_flops
from autoprune.measures.evaluator import ModelEvaluator, build
from autoprune.policy import canonical
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.ports import CalibrationSource, EvalRequest, MeasureRequest, WorkerSpec
from autoprune.pruning.session import Session

SIZES = ((24, 40), (40, 24), (32, 32), (50, 100))  # the last is shrunk to at most 2048 pixels
MEASURES = ("answer_nll", "exact_match", "budget", "prefill_flops", "kv_bytes", "selection_flops")
Lines = list[dict[str, Any]]


def stage(layer: int, share: Fraction, part: Part) -> ResolvedStage:
    return ResolvedStage("llm", layer, Keep("fraction", share), (ResolvedPick(part, Part("top")),), Part("nearest"))


RECEIVED = Part("encoder_attention", {"layer": 1, "from": "all"})
POLICY = ResolvedPolicy(
    (stage(0, Fraction(1, 2), RECEIVED), stage(2, Fraction(1, 6), Part("llm_attention", {"from": "text"}))), LAYERS
)


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def evaluator(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, records_file: Callable[[Path, Lines], str]
) -> ModelEvaluator:
    folder = tmp_path_factory.mktemp(request.param)
    tiny_checkpoints.save(request.param, folder)
    draw, lines = random.Random(0), []
    for number in range(16):
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZES[number % len(SIZES)], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        words = " ".join(f"w{draw.randrange(40)}" for _ in range(draw.randint(1, 6)))
        images = [f"{number}.png", *([f"{number - 1}.png"] if number % 5 == 4 else [])]
        lines.append({"images": images, "prompt": words, "answer": f"w{number} w2"})
    source = CalibrationSource(records_file(folder / "r.jsonl", lines), None, 8, 4, None, 0)
    spec = WorkerSpec(str(folder), source, tuple(MeasureRequest(m) for m in MEASURES), batch_size=8, threads=1)
    return build(spec)


def test_rows_hold_what_the_model_needs(evaluator: ModelEvaluator) -> None:
    rows = evaluator._data["search"].rows(8)
    assert len({row.visual for row in rows}) >= 3
    assert {len(row.grids) for row in rows} == {1, 2}
    for row in rows:
        assert row.visual == sum(high * wide for high, wide in row.grids) // 4
        assert len(row.vision["pixel_values"]) == 4 * row.visual
        assert int(row.tokens["mm_token_type_ids"].sum()) == row.visual
        assert len(row.answer) == 3


def test_costs_equal_the_run(evaluator: ModelEvaluator) -> None:
    loaded, data = evaluator.loaded, evaluator._data["search"]
    assert data.newlines(8) == [0] * 8
    for row, cost in zip(data.rows(8), evaluator.sample_costs(POLICY, data, 8), strict=True):
        inputs = collate([row], [()], [0], loaded.pad).inputs
        with torch.inference_mode(), Session(loaded.model, POLICY) as session:
            output = loaded.model(**inputs, use_cache=True)
        assert tuple(layer[0] for layer in session.run.lengths) == cost.visual
        stored = sum(p.untyped_storage().nbytes() for c in output.past_key_values.layers for p in (c.keys, c.values))
        assert stored == cost.kv_bytes
        assert cost.selection_flops > 0
        tower = tower_flops(evaluator.geometry, row.pictures)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            loaded.model.set_attn_implementation("eager")
            loaded.model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
        loaded.model.set_attn_implementation("sdpa")
        assert tower == counter.get_total_flops()


def test_ragged_batches_measure_what_singles_do(evaluator: ModelEvaluator) -> None:
    request = EvalRequest(canonical.to_json(POLICY), "search", MEASURES)
    many = evaluator.evaluate(request)
    single = ModelEvaluator(evaluator.loaded, evaluator._data, evaluator._measures, 1).evaluate(request)
    for label, numbers in many.samples.items():
        assert single.samples[label] == pytest.approx(numbers, rel=1e-4, abs=1e-5)
    whole = evaluator.evaluate(EvalRequest(None, "search", MEASURES))
    assert many.values["budget"] < whole.values["budget"] == 1.0
    assert many.values["prefill_flops"] < whole.values["prefill_flops"]
    assert many.samples["answer_nll"] != whole.samples["answer_nll"]


@pytest.mark.parametrize("saved", ["older", "newer"])
def test_the_processor_is_the_models_own(evaluator: ModelEvaluator, saved: str, tmp_path: Path) -> None:
    """Also where torchvision is missing, which only its video part needs; older files hold one part's settings each."""
    processor = evaluator.loaded.processor
    if saved == "older":
        processor.image_processor.save_pretrained(tmp_path)
        processor.tokenizer.chat_template = processor.chat_template
        processor.tokenizer.save_pretrained(tmp_path)
        evaluator.loaded.model.config.save_pretrained(tmp_path)
        assert not (tmp_path / "processor_config.json").exists()
        processor = load_processor(str(tmp_path))
    kinds = {"qwen2_vl": Qwen2VLProcessor, "qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}
    kind = kinds[evaluator.geometry.family]
    place = tiny_checkpoints.SAVED[evaluator.geometry.family].place
    assert isinstance(processor, kind)
    assert type(processor).__name__ == kind.__name__
    assert processor.chat_template == tiny_checkpoints.template(place)
    assert processor.image_processor.size["longest_edge"] == 2048
    made = processor(text=[f"w1 {place} w2"], images=[[Image.new("RGB", (16, 8))]], return_tensors="pt")
    assert made["image_grid_thw"].tolist() == [[1, 2, 4]]


def test_a_processor_that_needs_more_is_refused(tmp_path: Path) -> None:
    tiny_checkpoints.save("qwen2_vl", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ImportError, match="CLIPProcessor needs torchvision"):
        image_only.load(str(tmp_path), {"local_files_only": True})
