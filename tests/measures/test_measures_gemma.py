"""Gemma 3 from disk with its own processor: token types in batches, sliding windows, images that see both ways."""

from __future__ import annotations

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

from autoprune.calibration.batches import collate
from autoprune.measures.evaluator import ModelEvaluator, build
from autoprune.policy import canonical
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.ports import CalibrationSource, EvalRequest, MeasureRequest, WorkerSpec
from autoprune.pruning.session import Session

MEASURES = ("answer_nll", "exact_match", "logit_kl", "information_flow", "budget", "prefill_flops", "kv_bytes")


def policy() -> ResolvedPolicy:
    def stage(layer: int, share: str, part: Part) -> ResolvedStage:
        return ResolvedStage(
            "llm", layer, Keep("fraction", Fraction(share)), (ResolvedPick(part, Part("top")),), Part("drop")
        )

    text = Part("llm_attention", {"layer": "prev", "from": "text"})
    return ResolvedPolicy((stage(0, "1/2", Part("feature_norm", {"space": "encoder"})), stage(2, "1/4", text)), LAYERS)


@pytest.fixture(scope="module")
def spec(
    tmp_path_factory: pytest.TempPathFactory, records_file: Callable[[Path, list[dict[str, Any]]], str]
) -> WorkerSpec:
    folder = tmp_path_factory.mktemp("gemma")
    tiny_checkpoints.save("gemma3", folder)
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
    assert many.values["budget"] == pytest.approx((2 * 1 / 2 + (LAYERS - 2) * 1 / 4) / LAYERS)
