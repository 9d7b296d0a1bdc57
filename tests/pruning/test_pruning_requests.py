"""A request keeps the policy it began with, whatever other requests run under and whatever is swapped meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pruning_support import Sample, difference, generate, inputs, model, policy, stage
from tiny_families import TINY, together
from tiny_families import model as family
from transformers import LogitsProcessor, LogitsProcessorList, TextIteratorStreamer

import autoprune
from autoprune.errors import AutoPruneError, BadInput
from autoprune.policy.document import Policy
from autoprune.pruning.loaded import LoadedPolicy
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.request import ATTACHED
from autoprune.pruning.session import Session

STEPS = 6
TWO = policy(stage(0, "1/2", "random"), stage(3, "1/4", ("llm_attention", {"from": "text"})))
OTHER = policy(stage(1, "1/3", "encoder_attention"), stage(4, "1/6", "random"))


def loaded(*stages: dict[str, Any]) -> LoadedPolicy:
    document = {"schema": "autoprune/policy/1", "name": "p", "stages": list(stages)}
    return LoadedPolicy(Policy.parse(document, RegisteredParts()))


HALF = loaded({"at": "llm:2", "keep": "1/2", "score": {"llm_attention": {"from": "text"}}})
TOWER = loaded({"at": "projector", "keep": "1/3", "score": "feature_norm"})
LATE = loaded({"at": "llm:4", "keep": "1/4", "score": "token_transition"})


class Together(LogitsProcessor):
    """Holds a request after its prefill until all have come that far."""

    def __init__(self, barrier: threading.Barrier) -> None:
        self.barrier, self.waited = barrier, False

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.waited:
            self.waited = True
            self.barrier.wait(60)
        return scores


def side_by_side(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Every job in a thread of its own."""
    found: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda i=i, job=job: found.update({i: job()})) for i, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return [found[i] for i in range(len(jobs))]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "llava_next"])
def test_concurrent_requests_run_each_under_its_own_policy(name: str) -> None:
    made, tiny = family(name), TINY[name]
    policies: list[Any] = [ATTACHED, HALF, None, TOWER, LATE, HALF]
    batches = [together(tiny.rows(tiny.ragged if i % 2 else tiny.ragged[:1], seed=i)) for i in range(len(policies))]
    alone = []
    for chosen, batch in zip(policies, batches, strict=True):
        if chosen is None:
            alone.append(generate(made, batch, STEPS))
            continue
        with (TOWER if chosen is ATTACHED else chosen).attach(made):
            alone.append(generate(made, batch, STEPS))
    barrier = threading.Barrier(len(policies))

    def request(chosen: Any, batch: Any) -> tuple[Any, float]:
        held = LogitsProcessorList([Together(barrier)])
        with autoprune.using(chosen) as used:
            return generate(made, batch, STEPS, logits_processor=held), used.budget().mean

    with TOWER.attach(made) as session:
        jobs = [lambda c=c, b=b: request(c, b) for c, b in zip(policies, batches, strict=True)]
        found = side_by_side(jobs)
        assert session.running == 0
    assert session.stats.prefills == len(policies)
    for (output, budget), expected, chosen in zip(found, alone, policies, strict=True):
        assert torch.equal(output.sequences, expected.sequences)
        assert difference(output, expected) <= 1e-6
        assert (budget == 1.0) == (chosen is None)


class Swap(LogitsProcessor):
    """Swaps the policy in the middle of a generation."""

    def __init__(self, session: Session, plan: Any, step: int) -> None:
        self.session, self.plan, self.left = session, plan, step

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            self.session.swap(self.plan)
        return scores


@pytest.mark.parametrize("step", [1, 3])
def test_a_swap_waits_for_the_next_request(step: int) -> None:
    made = model()
    batch = inputs(made, [Sample(9), Sample(14)])
    with Session(made, TWO):
        two = generate(made, batch, STEPS)
    with Session(made, OTHER):
        other = generate(made, batch, STEPS)
    with Session(made, TWO) as session:
        swap = LogitsProcessorList([Swap(session, session.prepare(OTHER), step)])
        assert difference(generate(made, batch, STEPS, logits_processor=swap), two) == 0.0
        assert difference(generate(made, batch, STEPS), other) == 0.0
        assert session.stats.prefills == 2
        assert session.stats.entered < session.stats.unpruned


def test_a_swap_between_the_image_features_and_the_prefill_waits_too() -> None:
    made = model()
    batch = inputs(made, [Sample(9)])
    with Session(made, OTHER):
        other = generate(made, batch, STEPS)
    with Session(made, TWO) as session:
        plan = session.prepare(OTHER)
        handle = made.model.multi_modal_projector.register_forward_hook(lambda *a: session.swap(plan))
        base = generate(made, batch, STEPS)
        handle.remove()
        assert [s.stage.layer for s in session.plan.stages] == [1, 4]
        assert difference(generate(made, batch, STEPS), other) == 0.0
    with Session(made, TWO):
        assert difference(generate(made, batch, STEPS), base) == 0.0
    assert difference(base, other) > 1e-3


def test_a_request_outlives_the_using_it_began_in() -> None:
    made = model()
    batch = inputs(made, [Sample(9)])
    with HALF.attach(made):
        half = generate(made, batch, STEPS)
    barrier = threading.Barrier(2)
    found: list[Any] = []

    def run() -> None:
        held = LogitsProcessorList([Together(barrier)])
        found.append(generate(made, batch, STEPS, logits_processor=held))

    with TOWER.attach(made):
        with autoprune.using(HALF):
            thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
            thread.start()
        barrier.wait(60)
        thread.join(60)
    assert difference(found[0], half) == 0.0


class Letters:
    """The least of a tokenizer that a streamer needs."""

    def decode(self, ids: Any, **options: Any) -> str:
        return "".join(f"<{int(i)}> " for i in ids)


@pytest.mark.parametrize("carried", [False, True], ids=["new thread", "copied context"])
def test_a_streaming_thread_has_the_context_it_is_given(carried: bool) -> None:
    made = model()
    batch = inputs(made, [Sample(9)])
    with (HALF if carried else TOWER).attach(made):
        expected = generate(made, batch, STEPS).sequences[0, -STEPS:]
    streamer = TextIteratorStreamer(Letters(), skip_prompt=True, timeout=60)
    options = {**batch, "max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, "streamer": streamer}
    with TOWER.attach(made) as session, autoprune.using(HALF) as used:
        target: Any = made.generate
        first = (target,) if carried else ()
        thread = threading.Thread(
            target=contextvars.copy_context().run if carried else target, args=first, kwargs=options
        )
        thread.start()
        text = "".join(streamer)
        thread.join(60)
        lengths = session.run.lengths
    assert text.split() == [f"<{int(t)}>" for t in expected]
    if carried:
        assert used.run.lengths == lengths
    else:
        with pytest.raises(AutoPruneError, match="no request has run in this context"):
            used.budget()


def test_asyncio_tasks_do_not_mix() -> None:
    made = model()
    batch = inputs(made, [Sample(9)])
    alone = []
    for chosen in (HALF, LATE):
        with chosen.attach(made):
            alone.append(generate(made, batch, STEPS))

    async def request(chosen: LoadedPolicy) -> Any:
        with autoprune.using(chosen):
            await asyncio.sleep(0)
            return await asyncio.to_thread(generate, made, batch, STEPS)

    async def both() -> list[Any]:
        return await asyncio.gather(request(HALF), request(LATE))

    with TOWER.attach(made):
        found = asyncio.run(both())
    assert [difference(a, b) for a, b in zip(found, alone, strict=True)] == [0.0, 0.0]


def test_a_policy_the_model_cannot_run_is_refused_when_the_request_begins() -> None:
    made = model()
    batch = inputs(made, [Sample(9)])
    deep = loaded({"at": "llm:9", "keep": "1/2", "score": "random"})
    with TOWER.attach(made):
        base = generate(made, batch, 3)
        with autoprune.using(deep), pytest.raises(BadInput, match="llm:9"):
            generate(made, batch, 3)
        assert difference(generate(made, batch, 3), base) == 0.0


def test_using_without_anything_attached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.pruning.session._ATTACHED", weakref.WeakSet())  # other tests may leave some on
    with pytest.raises(AutoPruneError, match="attach a policy first"), autoprune.using(HALF):
        pass


def test_generate_is_the_models_own_again() -> None:
    made = model()
    with Session(made, TWO):
        assert "generate" in vars(made)
        assert made.generate.__name__ == "generate"
    assert "generate" not in vars(made)
