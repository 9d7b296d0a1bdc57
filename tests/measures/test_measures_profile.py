"""The profile of the unpruned model, held against what the library itself gives out, one record at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import torch
from PIL import Image

from autoprune.calibration.batches import collate
from autoprune.errors import BadInput
from autoprune.measures.evaluator import ModelEvaluator, build
from autoprune.measures.registry import find, names
from autoprune.policy import canonical
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.ports import CalibrationSource, EvalRequest, MeasureRequest, WorkerSpec

DEPTH = 6
SIGNALS = ("similarity", "attention")
LABELS = tuple((signal, layer) for signal in SIGNALS for layer in range(DEPTH))
ASKED = tuple(MeasureRequest("layer_profile", {"signal": s, "layer": n}, f"{s} {n}") for s, n in LABELS)
Lines = list[dict[str, Any]]


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl", "gemma3"])
def spec(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, records_file: Callable[[Path, Lines], str]
) -> WorkerSpec:
    """Prompts of different lengths, some of two pictures with text between them: batches have padding."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny_checkpoints.save(request.param, folder)
    place, draw, lines = tiny_checkpoints.SAVED[request.param].place, random.Random(0), []
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48 + 16 * (number % 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        words = " ".join(f"w{draw.randrange(40)}" for _ in range(draw.randint(1, 9)))
        asked: dict[str, Any] = {"images": [f"{number}.png"], "prompt": words}
        if number % 3 == 0:
            raw = f"user : w1 w2 {place} {words} {place} w3 assistant :"
            asked = {"images": [f"{number}.png"] * 2, "prompt_raw": raw}
        lines.append({**asked, "answer": " ".join(f"w{i}" for i in range(2, 4 + number % 3))})
    source = CalibrationSource(records_file(folder / "r.jsonl", lines), None, 6, 2, None, 0)
    wanted = (*ASKED, MeasureRequest("answer_nll"))
    return WorkerSpec(str(folder), source, wanted, batch_size=4, threads=1)


@pytest.fixture(scope="module")
def evaluator(spec: WorkerSpec) -> ModelEvaluator:
    return build(spec)


def measure(evaluator: ModelEvaluator, limit: int | None = None) -> dict[str, tuple[float, ...]]:
    labels = tuple(request.label for request in ASKED)
    return dict(evaluator.evaluate(EvalRequest(None, "search", labels, limit)).samples)


def plain(eager: ModelEvaluator, row: Any) -> dict[tuple[str, int], float]:
    """One record without padding; the library's own hidden states and attention. Its last state is past the final norm,
    so that one is taken where the layer ends."""
    loaded, last = eager.loaded, []
    batch = collate([row], [()], [0], loaded.pad)
    layers = loaded.family.places(loaded.model).layers
    hook = layers[-1].register_forward_hook(lambda m, a, out: last.append(out[0] if isinstance(out, tuple) else out))
    with torch.inference_mode():
        made = loaded.model(**batch.inputs, output_hidden_states=True, output_attentions=True)
    hook.remove()
    states = [*made.hidden_states[:DEPTH], last[0]]
    visual = [i for i, token in enumerate(batch.inputs["input_ids"][0].tolist()) if token == loaded.image_token]
    assert len(visual) == row.visual > 0
    found = {}
    for n in range(DEPTH):
        pairs = [(states[n][0, i].double(), states[n + 1][0, i].double()) for i in visual]
        found["similarity", n] = sum(float(a @ b / (a.norm() * b.norm())) for a, b in pairs) / len(pairs)
        found["attention", n] = float(made.attentions[n][0, :, -1, visual].sum(1).mean())
    return found


def test_it_is_what_a_plain_forward_gives_out(spec: WorkerSpec, evaluator: ModelEvaluator) -> None:
    rows = evaluator._data["search"].rows(6)
    assert len({row.length for row in rows}) > 2  # batches are padded
    assert len({row.visual for row in rows}) > 1  # one picture or two
    found, eager = measure(evaluator), build(replace(spec, attn_implementation="eager"))
    for number, row in enumerate(rows):
        expected = plain(eager, row)
        for signal, layer in LABELS:
            assert found[f"{signal} {layer}"][number] == pytest.approx(expected[signal, layer], rel=1e-4, abs=1e-6)
    everything = [number for numbers in found.values() for number in numbers]
    assert len(set(everything)) == len(everything), "no two layers or records look alike"


def test_batches_and_answers_make_no_difference(spec: WorkerSpec, evaluator: ModelEvaluator) -> None:
    whole = measure(evaluator)
    for other in (build(replace(spec, batch_size=1)), build(replace(spec, cache=0))):
        for label, numbers in measure(other, 3).items():
            assert numbers == pytest.approx(whole[label][:3], rel=1e-4, abs=1e-6)


def test_the_model_is_left_as_it_was(evaluator: ModelEvaluator) -> None:
    before = evaluator.evaluate(EvalRequest(None, "search", ("answer_nll",))).samples
    measure(evaluator)
    assert evaluator.evaluate(EvalRequest(None, "search", ("answer_nll",))).samples == before
    layers = evaluator.loaded.family.places(evaluator.loaded.model).layers
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    assert not any(hasattr(layer.self_attn, "_autoprune_tap") for layer in layers)


def test_a_policy_has_none_and_a_layer_must_be_there(spec: WorkerSpec, evaluator: ModelEvaluator) -> None:
    pick = ResolvedPick(Part("random", {"seed": 1}), Part("top"))
    stage = ResolvedStage("llm", 2, Keep("fraction", Fraction(1, 2)), (pick,), Part("drop"))
    policy = canonical.to_json(ResolvedPolicy((stage,), DEPTH))
    with pytest.raises(BadInput, match="layer_profile describes the unpruned model"):
        evaluator.evaluate(EvalRequest(policy, "search", (ASKED[0].label,)))
    beyond = MeasureRequest("layer_profile", {"layer": DEPTH})
    with pytest.raises(BadInput, match="the model has decoder layers 0 to 5, not 6"):
        build(replace(spec, measures=(beyond,))).evaluate(EvalRequest(None, "search", ("layer_profile",)))


def test_no_policy_is_measured_by_it() -> None:
    assert find("layer_profile") is not None
    assert "layer_profile" not in names()
