"""One pass over prompt and answer prunes as generation's prefill does, so its logits are the generation's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pruning_support import Sample, generate, inputs, model, policy, single, stage

from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.session import Session

STEPS = 6
SAMPLES = [Sample(16, ((48, 96), (48, 96))), Sample(12, ()), Sample(9)]
POLICIES = {
    "last and text rows": policy(
        stage(1, "1/2", ("llm_attention", {"layer": "own", "from": "text"})), stage(3, "1/4", "llm_attention")
    ),
    "compact": policy(
        stage(1, "1/2", "llm_attention", merge="nearest", positions="compact"),
        stage(3, "1/4", ("llm_attention", {"from": "text"}), "far", merge="residual"),
    ),
    "by mass": policy(
        stage(1, "1/2", "llm_attention", merge="nearest", attend="mass"),
        stage(3, "1/4", ("llm_attention", {"layer": "own", "from": "text"}), merge=("nearest", {"space": "hidden"})),
    ),
    "restored": policy(
        stage(1, "1/4", ("llm_attention", {"from": "last"}), merge="park"),
        stage(3, "1/2", ("llm_attention", {"layer": "own", "from": "text"}), restore="scattered"),
    ),
    "input": policy(stage(0, "1/3", "encoder_attention"), stage(0, "1/6", None, "far")),
}


def forced(made: Any, batch: dict[str, torch.Tensor], answers: torch.Tensor, session: Session | None) -> Any:
    """Logits [B, T, V] at the answer positions of one pass over prompt and answer."""
    start = torch.full((len(answers),), batch["input_ids"].shape[1])
    both = {
        **batch,
        "input_ids": torch.cat([batch["input_ids"], answers], 1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.ones_like(answers)], 1),
    }
    with torch.no_grad():
        if session is None:
            return made(**both, use_cache=False).logits[:, -answers.shape[1] - 1 : -1]
        with session.teacher_forced(start):
            return made(**both, use_cache=False).logits[:, -answers.shape[1] - 1 : -1]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_a_forced_pass_gives_the_logits_of_greedy_generation(family: str, name: str) -> None:
    check(family, POLICIES[name])


def check(family: str, resolved: ResolvedPolicy) -> None:
    made = model(family)
    batch = inputs(made, SAMPLES)
    with Session(made, resolved) as session:
        made_up = generate(made, batch, STEPS)
        run = session.run
        answers = made_up.sequences[:, -STEPS:]
        logits = forced(made, batch, answers, session)
    assert session.run.lengths == run.lengths
    for layer in range(6):
        for b in range(len(SAMPLES)):
            assert session.run.kept(layer, b) == run.kept(layer, b)
    expected = torch.stack(made_up.logits, 1)
    assert float((logits - expected).abs().max()) <= 1e-5
    assert torch.equal(logits.argmax(-1), answers)


def test_without_it_the_answer_would_decide_what_is_kept() -> None:
    """The negative control: scores from the last answer row keep other tokens."""
    made = model()
    batch = inputs(made, SAMPLES[2:])
    with Session(made, POLICIES["last and text rows"]) as session:
        made_up = generate(made, batch, STEPS)
        kept = session.run.kept(5, 0)
        both = torch.cat([batch["input_ids"], made_up.sequences[:, -STEPS:]], 1)
        with torch.no_grad():
            made(input_ids=both, attention_mask=torch.ones_like(both), pixel_values=batch["pixel_values"])
        assert session.run.kept(5, 0) != kept


def test_answers_of_different_length_in_one_batch() -> None:
    """Left-padded prompt+answer rows: each row's prompt ends elsewhere."""
    made = model()
    batch = inputs(made, [Sample(9), Sample(14)])
    alone = [single(batch, [Sample(9), Sample(14)], i) for i in range(2)]
    with Session(made, POLICIES["compact"]) as session:
        answers = [generate(made, alone[i], n).sequences[0] for i, n in enumerate((3, 5))]
        width = max(map(len, answers))
        ids = torch.stack([torch.nn.functional.pad(a, (width - len(a), 0)) for a in answers])
        mask = torch.stack([torch.nn.functional.pad(torch.ones_like(a), (width - len(a), 0)) for a in answers])
        start = torch.tensor([width - 3, width - 5])
        with torch.no_grad(), session.teacher_forced(start):
            found = made(input_ids=ids, attention_mask=mask, pixel_values=batch["pixel_values"], use_cache=False)
    for i, count in enumerate((3, 5)):
        greedy = found.logits[i, -count - 1 : -1].argmax(-1)
        assert torch.equal(greedy, answers[i][-count:])
