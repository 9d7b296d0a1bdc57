"""The gradient oracle: against its definition on whole maps, and what it says of the reference model's tokens."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning_support import Sample, inputs, model, policy, single, stage

from autoprune.errors import AutoPruneError, BadInput
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.relevance import relevance
from autoprune.pruning.session import Session

SAMPLES = [Sample(7), Sample(12), Sample(9, ())]
REFERENCE = Path(__file__).parents[2] / "examples" / "reference_vlm"


def by_definition(made: Any, batch: dict[str, torch.Tensor], answer: int) -> list[float]:
    """One sample: R = (I + Ā_L) ... (I + Ā_1) as whole matrices, then the rows before the last `answer` tokens."""
    length = batch["input_ids"].shape[1]
    output = made(**batch, output_attentions=True, use_cache=False)
    rows = list(range(length - 1 - answer, length - 1)) if answer else [length - 1]
    words = batch["input_ids"][0, -answer:] if answer else output.logits[0, -1:].argmax(1)
    asked = sum(output.logits[0, r].log_softmax(0)[w] for r, w in zip(rows, words, strict=True))
    total = torch.eye(length)
    for weights in output.attentions:
        (gradient,) = torch.autograd.grad(asked, weights, retain_graph=True)
        total = total + (gradient[0] * weights[0].detach()).clamp(min=0).mean(0) @ total
    image = batch["input_ids"][0] == made.config.image_token_index
    return list(total[rows].sum(0)[image].tolist())


@pytest.mark.parametrize("answer", [0, 3])
def test_relevance_is_its_definition(answer: int) -> None:
    made, eager = model(), model("llava", "eager")
    batch = inputs(made, SAMPLES)
    width = batch["input_ids"].shape[1]
    start = torch.full((len(SAMPLES),), width - answer) if answer else None
    with torch.no_grad():
        before = made(**batch, use_cache=False).logits
        found = relevance(made, batch, start)
    assert [len(row) for row in found] == [36, 36, 0]
    for i in range(2):
        alone = single(batch, SAMPLES, i)
        assert found[i].tolist() == pytest.approx(by_definition(eager, alone, answer), rel=1e-3, abs=1e-7)
        assert min(found[i].tolist()) >= 0
        assert max(found[i].tolist()) > 0
    with torch.no_grad():
        assert torch.equal(made(**batch, use_cache=False).logits, before)
    assert all(parameter.grad is None for parameter in made.parameters())


def test_relevance_is_of_the_unpruned_model() -> None:
    batch = inputs(model(), SAMPLES)
    with Session(model(), policy(stage(1, "1/2"))), pytest.raises(AutoPruneError, match="about the unpruned model"):
        relevance(model(), batch)


def test_a_policy_cannot_ask_for_it() -> None:
    with pytest.raises(BadInput, match="needs the answer and a backward pass"):
        Session(model(), policy(stage(1, "1/2", ("relevance", {}))))


def test_the_most_relevant_tokens_are_those_an_answer_rests_on() -> None:
    """The reference model: without the most relevant quarter its answers change, without the least they stay."""
    pytest.importorskip("sklearn", reason="the scenes show scikit-learn's digits")
    sys.path.append(str(REFERENCE))
    from make_data import examples  # type: ignore[import-not-found,unused-ignore]
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    made = AutoModelForImageTextToText.from_pretrained(REFERENCE / "checkpoint", dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(REFERENCE / "checkpoint", backend="pil")
    right = {"most": 0, "least": 0}
    asked = 0
    for example in examples("search", images=12, questions_per_image=2, seed=31):
        for question in example.questions:
            content = [{"type": "image"}, {"type": "text", "text": question.text}]
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            batch = processor(images=[[Image.fromarray(example.pixels)]], text=[text], return_tensors="pt")
            scores = relevance(made, batch)[0]
            with torch.no_grad():
                whole = int(made(**batch).logits[0, -1].argmax())
            asked += 1
            drop = len(scores) // 4
            order = scores.argsort(descending=True).tolist()
            for name, gone in (("most", order[:drop]), ("least", order[-drop:])):
                kept = tuple(sorted(set(range(len(scores))) - set(gone)))
                only = stage(0, Fraction(len(kept), len(scores)), protect=kept)
                keeping = ResolvedPolicy((only,), len(made.model.language_model.layers))
                with Session(made, keeping) as session, torch.no_grad():
                    right[name] += int(made(**batch).logits[0, -1].argmax()) == whole
                    assert session.run.kept(0, 0) == list(kept)
    assert right["least"] >= 0.9 * asked
    assert right["most"] <= 0.6 * asked
