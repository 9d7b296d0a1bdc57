"""Exact match equals greedy `generate` on the reference model that ships with the repository."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from autoprune.calibration.batches import batches
from autoprune.measures.evaluator import ModelEvaluator, build
from autoprune.policy import canonical
from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.ports import CalibrationSource, EvalRequest, MeasureRequest, WorkerSpec
from autoprune.pruning.session import Session

EXAMPLE = Path(__file__).parents[2] / "examples" / "reference_vlm"
SAMPLES = 512
TIE = 1e-4


def two_stages(depth: int) -> ResolvedPolicy:
    middle = depth // 2
    cls = ResolvedPick(Part("encoder_attention", {"layer": 2, "from": "cls"}), Part("top"))
    last = ResolvedPick(Part("llm_attention", {"layer": middle - 1, "from": "last"}), Part("top"))
    return ResolvedPolicy(
        (
            ResolvedStage("projector", 0, Keep("fraction", Fraction(1, 2)), (cls,), Part("drop")),
            ResolvedStage("llm", middle, Keep("of_current", Fraction(1, 3)), (last,), Part("drop")),
        ),
        depth,
    )


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> ModelEvaluator:
    pytest.importorskip("sklearn")
    out = tmp_path_factory.mktemp("reference")
    asked = ["--images", "280", "--questions-per-image", "2", "--pool", "search", "--seed", "11", "--out", str(out)]
    subprocess.run([sys.executable, str(EXAMPLE / "make_data.py"), *asked], check=True, capture_output=True)
    (records,) = out.glob("*.jsonl")
    source = CalibrationSource(str(records), None, SAMPLES, 8, "type", 0)
    return build(
        WorkerSpec(str(EXAMPLE / "checkpoint"), source, (MeasureRequest("exact_match"),), batch_size=32, threads=2)
    )


def generated(evaluator: ModelEvaluator, policy: ResolvedPolicy) -> tuple[list[bool], list[float]]:
    """Whether greedy `generate` gives each answer, and the smallest gap between its two best logits on the way."""
    loaded, data = evaluator.loaded, evaluator._data["search"]
    rows = data.rows(SAMPLES)
    right, gap = [False] * SAMPLES, [0.0] * SAMPLES
    steps = max(len(row.answer) for row in rows)
    with torch.inference_mode(), Session(loaded.model, policy):
        for batch in batches(rows, [()] * SAMPLES, 32, loaded.pad):
            made = loaded.model.generate(
                **batch.inputs, max_new_tokens=steps, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            words = made.sequences[:, batch.inputs["input_ids"].shape[1] :]
            best = torch.stack(made.logits, 1).topk(2).values
            for b, place in enumerate(batch.indices):
                answer = rows[place].answer
                right[place] = tuple(words[b, : len(answer)].tolist()) == answer
                gap[place] = float((best[b, : len(answer), 0] - best[b, : len(answer), 1]).min())
    return right, gap


@pytest.mark.parametrize(
    "pruned", [pytest.param(False, marks=pytest.mark.full, id="unpruned"), pytest.param(True, id="pruned")]
)
def test_exact_match_equals_generate_on_512_samples(evaluator: ModelEvaluator, pruned: bool) -> None:
    """A sample may differ only where the two best logits of a step are within 1e-4."""
    depth = evaluator.geometry.depth
    policy = two_stages(depth) if pruned else ResolvedPolicy((), depth)
    request = EvalRequest(canonical.to_json(policy), "search", ("exact_match",))
    result = evaluator.evaluate(request).samples["exact_match"]
    right, gap = generated(evaluator, policy)
    assert len(result) == SAMPLES >= 500
    differing = [i for i in range(SAMPLES) if bool(result[i]) != right[i]]
    assert all(gap[i] <= TIE for i in differing), differing
    assert 0.05 < sum(right) / SAMPLES < 1
