"""Information flow on two families, held against loops in float64 over runs of one record each."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
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
from autoprune.policy import canonical
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.ports import CalibrationSource, EvalRequest, MeasureRequest, WorkerSpec
from autoprune.pruning.session import Session

DEPTH = 6
WEIGHTS = {"1": 1.0, "1/2": 2.0, "last": 5.0}
COUNTS = {1: 1 / 8, 3: 2 / 8, 6: 5 / 8}
FLOWS = {
    f"{tokens} {distance}": MeasureRequest(
        "information_flow", {"tokens": tokens, "distance": distance, "layers": WEIGHTS}, f"{tokens} {distance}"
    )
    for tokens in ("last", "answer", "text")
    for distance in ("cosine", "l2", "cka", "logit_kl")
    if (tokens, distance) != ("last", "cka")
}
Lines = list[dict[str, Any]]
Vector = list[float]


def stage(site: str, layer: int, share: str, criterion: Part) -> ResolvedStage:
    pick = ResolvedPick(criterion, Part("top"))
    return ResolvedStage(site, layer, Keep("fraction", Fraction(share)), (pick,), Part("nearest"))  # type: ignore[arg-type]


POLICY = ResolvedPolicy(
    (
        stage("projector", 0, "2/3", Part("random", {"seed": 1})),
        stage("llm", 2, "1/4", Part("llm_attention", {"layer": 1, "from": "text"})),
    ),
    DEPTH,
)
IDENTITY = ResolvedPolicy((stage("llm", 2, "1", Part("feature_norm", {"space": "hidden"})),), DEPTH)


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def spec(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, records_file: Callable[[Path, Lines], str]
) -> WorkerSpec:
    """Prompts of different lengths, with text ahead of an image and between two: batches have padding."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny_checkpoints.save(request.param, folder)
    place, draw, lines = tiny_checkpoints.SAVED[request.param].place, random.Random(0), []
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48 + 16 * (number % 2), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        words = " ".join(f"w{draw.randrange(40)}" for _ in range(draw.randint(1, 9)))
        asked: dict[str, Any] = {"images": [f"{number}.png"], "prompt": words}
        if number % 3 == 0:
            raw = f"user : w1 w2 {place} {words} {place} w3 assistant :"
            asked = {"images": [f"{number}.png"] * 2, "prompt_raw": raw}
        lines.append({**asked, "answer": " ".join(f"w{i}" for i in range(2, 4 + number % 3))})
    source = CalibrationSource(records_file(folder / "r.jsonl", lines), None, 6, 2, None, 0)
    return WorkerSpec(str(folder), source, tuple(FLOWS.values()), batch_size=8, threads=1)


@pytest.fixture(scope="module")
def evaluator(spec: WorkerSpec) -> ModelEvaluator:
    return build(spec)


def measure(evaluator: ModelEvaluator, policy: ResolvedPolicy | None) -> dict[str, tuple[float, ...]]:
    text = None if policy is None else canonical.to_json(policy)
    return dict(evaluator.evaluate(EvalRequest(text, "search", tuple(FLOWS))).samples)


# ------------------------------------------------------------------------------- the same, one record and row at a time
def hidden(evaluator: ModelEvaluator, row: Any, policy: ResolvedPolicy) -> dict[tuple[str, int], list[torch.Tensor]]:
    """Rows by tokens and layer, of one record without padding."""
    loaded = evaluator.loaded
    batch = collate([row], [row.answer], [0], loaded.pad)
    ids, seen = batch.inputs["input_ids"][0].tolist(), {}
    layers = loaded.family.places(loaded.model).layers
    with torch.inference_mode(), Session(loaded.model, policy) as session, session.teacher_forced(batch.answer_start):
        hooks = [
            layer.register_forward_hook(lambda m, a, out, n=n: seen.__setitem__(n, out))
            for n, layer in enumerate(layers)
        ]
        loaded.model(**batch.inputs)
        columns = [session.run.index(n)[0][0].tolist() for n in range(DEPTH)]
    for hook in hooks:
        hook.remove()
    last, found = row.length - 1, {}
    wanted = {
        "last": {last},
        "answer": set(range(last, last + len(row.answer))),
        "text": {i for i in range(row.length) if ids[i] != loaded.image_token},
    }
    for n, out in seen.items():
        states = (out[0] if isinstance(out, tuple) else out)[0]
        for tokens, logical in wanted.items():
            found[tokens, n + 1] = [states[i] for i, column in enumerate(columns[n]) if column in logical]
            assert len(found[tokens, n + 1]) == len(logical)
    return found


def dot(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def cosine(pruned: Vector, full: Vector) -> float:
    return 1 - dot(pruned, full) / math.sqrt(dot(pruned, pruned) * dot(full, full))


def l2(pruned: Vector, full: Vector) -> float:
    difference = [a - b for a, b in zip(pruned, full, strict=True)]
    return math.sqrt(dot(difference, difference) / dot(full, full))


def kl(pruned: Vector, full: Vector) -> float:
    def log_probabilities(logits: Vector) -> Vector:
        top = max(logits)
        whole = top + math.log(math.fsum(math.exp(v - top) for v in logits))
        return [v - whole for v in logits]

    p, q = log_probabilities(full), log_probabilities(pruned)
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def cka(pruned: list[Vector], full: list[Vector]) -> float:
    """By columns, as the formula is written: |YᵀX|² / (|XᵀX| |YᵀY|)."""

    def centred(rows: list[Vector]) -> list[Vector]:
        columns = list(zip(*rows, strict=True))
        return [[v - math.fsum(column) / len(column) for v in column] for column in columns]

    def squares(one: list[Vector], other: list[Vector]) -> float:
        return math.fsum(dot(a, b) ** 2 for a in one for b in other)

    x, y = centred(pruned), centred(full)
    return 1 - squares(x, y) / math.sqrt(squares(x, x) * squares(y, y))


def expected(evaluator: ModelEvaluator, row: Any, tokens: str, distance: str) -> float:
    pruned, full = hidden(evaluator, row, POLICY), hidden(evaluator, row, ResolvedPolicy((), DEPTH))
    model, total = evaluator.loaded.model, 0.0
    for layer, weight in COUNTS.items():
        pairs = list(zip(pruned[tokens, layer], full[tokens, layer], strict=True))
        if distance == "logit_kl":
            norm = model.model.language_model.norm
            logits = [[model.lm_head(norm(state)).tolist() for state in pair] for pair in pairs]
            values = [kl(*pair) for pair in logits]
        else:
            numbers = [[state.tolist() for state in pair] for pair in pairs]
            if distance == "cka":
                values = [cka([a for a, _ in numbers], [b for _, b in numbers])]
            else:
                values = [{"cosine": cosine, "l2": l2}[distance](a, b) for a, b in numbers]
        total += weight * math.fsum(values) / len(values)
    return total


@pytest.mark.parametrize("label", FLOWS)
def test_the_numbers_are_those_of_a_loop_over_single_runs(evaluator: ModelEvaluator, label: str) -> None:
    rows = evaluator._data["search"].rows(6)
    assert len({row.length for row in rows}) > 2  # the batch is padded
    tokens, distance = label.split()
    found = measure(evaluator, POLICY)[label]
    assert min(found) > 1e-4
    for row, number in list(zip(rows, found, strict=True))[:4]:
        assert number == pytest.approx(expected(evaluator, row, tokens, distance), rel=2e-3, abs=2e-6)


def test_nothing_pruned_is_nothing_disturbed(evaluator: ModelEvaluator) -> None:
    for policy in (None, IDENTITY):
        for numbers in measure(evaluator, policy).values():
            assert numbers == pytest.approx([0] * 6, abs=1e-6)


def test_batches_measure_what_singles_do(evaluator: ModelEvaluator) -> None:
    many = measure(evaluator, POLICY)
    single = measure(ModelEvaluator(evaluator.loaded, evaluator._data, evaluator._measures, 1), POLICY)
    for label, numbers in many.items():
        assert single[label] == pytest.approx(numbers, rel=2e-3, abs=2e-6)


def test_only_what_is_asked_for_is_kept(spec: WorkerSpec, evaluator: ModelEvaluator) -> None:
    one = ModelEvaluator(evaluator.loaded, dict(build(spec)._data), {"text cka": evaluator._measures["text cka"]}, 8)
    one.evaluate(EvalRequest(None, "search", ("text cka",), 3))
    cache = one._data["search"].references._cache
    assert cache is not None
    (kept,) = (cache.get(key) for key in list(cache._entries) if cache.label(key) == "reference")
    assert set(kept.states) == {("text", layer) for layer in COUNTS}
    state = kept.states["text", 1]
    assert state.shape[0] == sum(row.length - row.visual for row in one._data["search"].rows(3))
    assert state.untyped_storage().nbytes() == state.nbytes  # not a view of all columns


def test_cka_of_one_word_answers_is_refused(
    spec: WorkerSpec, tmp_path: Path, records_file: Callable[[Path, Lines], str]
) -> None:
    lines = [json.loads(line) for line in Path(spec.calibration.records).read_text().splitlines()]
    folder = Path(spec.calibration.records).parent
    short = records_file(tmp_path / "short.jsonl", [{**line, "answer": "w1"} for line in lines])
    source = CalibrationSource(short, str(folder), 6, 2, None, 0)
    made = build(WorkerSpec(spec.model_path, source, (FLOWS["answer cka"],), batch_size=8, threads=1))
    with pytest.raises(BadInput, match=r"cka needs at least 3 answer tokens a record, .*; record '\d+' has 2"):
        made.evaluate(EvalRequest(None, "search", ("answer cka",)))
