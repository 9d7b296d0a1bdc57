"""Images with different numbers of tokens: LLaVA-NeXT tiles, separators, ragged batches."""

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

SIZES = ((48, 96), (96, 48), (96, 96), (40, 90))
MEASURES = ("answer_nll", "exact_match", "information_flow", "budget", "prefill_flops", "kv_bytes")
Lines = list[dict[str, Any]]


def policy() -> ResolvedPolicy:
    def stage(layer: int, share: Fraction, part: Part) -> ResolvedStage:
        pick = ResolvedPick(part, Part("top"))
        return ResolvedStage("llm", layer, Keep("fraction", share), (pick,), Part("drop"), protect="newlines")

    norm = Part("feature_norm", {"space": "hidden"})
    return ResolvedPolicy((stage(0, Fraction(1, 2), norm), stage(2, Fraction(1, 36), norm)), LAYERS)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, records_file: Callable[[Path, Lines], str]) -> WorkerSpec:
    folder = tmp_path_factory.mktemp("next")
    tiny_checkpoints.save("llava_next", folder)
    draw, lines = random.Random(0), []
    for number in range(16):
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZES[number % len(SIZES)], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        words = " ".join(f"w{draw.randrange(40)}" for _ in range(draw.randint(1, 6)))
        lines.append({"images": [f"{number}.png"], "prompt": words, "answer": f"w{number} w2"})
    source = CalibrationSource(records_file(folder / "r.jsonl", lines), None, 12, 4, None, 0)
    return WorkerSpec(str(folder), source, tuple(MeasureRequest(m) for m in MEASURES), batch_size=8, threads=1)


def test_ragged_batches_equal_singles_and_costs_equal_the_run(spec: WorkerSpec) -> None:
    evaluator = build(spec)
    loaded, data = evaluator.loaded, evaluator._data["search"]
    rows = data.rows(12)
    assert len({row.visual for row in rows}) >= 3
    assert all(count > 0 for count in data.newlines(12))
    for row, cost in zip(rows, evaluator.sample_costs(policy(), data, 12), strict=True):
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
    assert many.values["budget"] == pytest.approx(single.values["budget"])
