"""Everything generate() does works on a pruned sequence: sampling, beams, turns, threads, caches, sessions."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from pruning_support import (
    LAYERS,
    MaskedReference,
    Sample,
    difference,
    generate,
    inputs,
    model,
    policy,
    single,
    stage,
)
from transformers import DynamicCache, StaticCache, TextIteratorStreamer

from autoprune.errors import AutoPruneError
from autoprune.pruning.session import Session

TWO = [Sample(9), Sample(14)]
POLICY = policy(stage(0, "1/2", "random"), stage(3, "1/4", ("llm_attention", {"from": "text"})))


@pytest.mark.parametrize("family", ["llava", "llava_next"])
@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": 1.3},
        {"num_beams": 3},
        {"num_beams": 2, "do_sample": True},
        {"do_sample": True, "num_return_sequences": 2},
    ],
    ids=["sampling", "beams", "beam sampling", "several sequences"],
)
def test_decoding_strategies_equal_the_masked_reference(family: str, options: dict[str, Any]) -> None:
    made = model(family)
    batch = inputs(made, [Sample(9, ((48, 96), (96, 96))), Sample(14)])
    with Session(made, POLICY) as session:
        torch.manual_seed(5)
        pruned = generate(made, batch, 7, **options)
    with MaskedReference(made, session.run):
        torch.manual_seed(5)
        reference = generate(made, batch, 7, **options)
    assert torch.equal(pruned.sequences, reference.sequences)
    assert difference(pruned, reference) <= 1e-5


def test_prompt_lookup_decoding_gives_the_greedy_tokens() -> None:
    made = model()
    batch = inputs(made, TWO[:1])
    with Session(made, POLICY):
        greedy = generate(made, batch, 12)
        looked_up = made.generate(
            **batch, max_new_tokens=12, min_new_tokens=12, do_sample=False, prompt_lookup_num_tokens=3
        )
    assert torch.equal(greedy.sequences, looked_up)


def second_turn(made: Any, batch: dict[str, torch.Tensor]) -> Any:
    cache = DynamicCache()
    first = generate(made, batch, 4, past_key_values=cache)
    more = torch.randint(10, 120, (len(first.sequences), 4), generator=torch.Generator().manual_seed(2))
    ids = torch.cat([first.sequences, more], 1)
    new = ids.shape[1] - batch["input_ids"].shape[1]
    mask = torch.cat([batch["attention_mask"], torch.ones(len(ids), new, dtype=torch.long)], 1)
    return generate(made, {"input_ids": ids, "attention_mask": mask}, 4, past_key_values=cache)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_second_turn_continues_on_the_pruned_cache(attention: str) -> None:
    made = model("llava_next", attention)
    batch = inputs(made, [Sample(9), Sample(14, ((96, 96),))])
    with Session(made, POLICY) as session:
        pruned = second_turn(made, batch)
    with MaskedReference(made, session.run):
        reference = second_turn(made, batch)
    assert difference(pruned, reference) <= 1e-5


def test_an_image_in_the_second_turn_runs_unpruned_and_says_so() -> None:
    made = model()
    first, second = inputs(made, TWO[:1]), inputs(made, TWO[:1], seed=4)

    def turns() -> torch.Tensor:
        cache = DynamicCache()
        with torch.no_grad():
            made(**first, past_key_values=cache, use_cache=True)
            width = first["input_ids"].shape[1] + second["input_ids"].shape[1]
            mask = torch.ones(1, width, dtype=torch.long)
            found = made(**{**second, "attention_mask": mask}, past_key_values=cache, use_cache=True)
        return torch.as_tensor(found.logits)

    with Session(made, POLICY) as session, pytest.warns(UserWarning, match="after the first turn"):
        pruned = turns()
    with MaskedReference(made, session.run):
        reference = turns()
    assert pruned.shape == reference.shape
    assert float((pruned - reference).abs().max()) <= 1e-5


class Letters:
    """The least of a tokenizer that a streamer needs."""

    def decode(self, ids: Any, **options: Any) -> str:
        return "".join(f"<{int(i)}> " for i in ids)


def test_a_streaming_thread_is_pruned() -> None:
    made = model()
    batch = inputs(made, TWO[:1])
    streamer = TextIteratorStreamer(Letters(), skip_prompt=True, timeout=60)
    with Session(made, POLICY) as session:
        thread = threading.Thread(
            target=made.generate,
            kwargs={**batch, "max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "streamer": streamer},
        )
        thread.start()
        text = "".join(streamer)
        thread.join()
        expected = generate(made, batch, 5).sequences[0, -5:]
    assert session.budget().mean < 0.5
    assert text.split() == [f"<{int(t)}>" for t in expected]


def test_concurrent_threads_do_not_mix() -> None:
    made = model()
    batches = [inputs(made, [Sample(9 + 2 * i)], seed=i) for i in range(4)]
    with Session(made, POLICY):
        alone = [generate(made, b, 5).sequences for b in batches]
        found: dict[int, torch.Tensor] = {}
        threads = [
            threading.Thread(target=lambda i=i: found.update({i: generate(made, batches[i], 5).sequences}))
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(found[i], alone[i]) for i in range(4))


def test_the_cache_really_is_short() -> None:
    made = model()
    batch = inputs(made, TWO)
    full = generate(made, batch, 3).past_key_values
    with Session(made, POLICY) as session:
        pruned = generate(made, batch, 3).past_key_values
    width, text = batch["input_ids"].shape[1] + 2, batch["input_ids"].shape[1] + 2 - 36
    for number, (short, whole) in enumerate(zip(pruned.layers, full.layers, strict=True)):
        expected = text + session.run.lengths[number][0]
        for a, b in ((short.keys, whole.keys), (short.values, whole.values)):
            assert a.shape[-2] == expected
            assert a.untyped_storage().nbytes() * width == b.untyped_storage().nbytes() * expected
    assert pruned.get_seq_length() == full.get_seq_length() == width


def test_the_budget_is_what_the_layers_saw() -> None:
    made = model("llava_next")
    samples = [Sample(9), Sample(15, ((96, 96),))]
    batch = inputs(made, samples)
    with Session(made, POLICY) as session:
        for i in range(2):
            seen: list[int] = []
            handles = [
                layer.register_forward_pre_hook(lambda m, a, seen=seen: seen.append(a[0].shape[1]))
                for layer in made.model.language_model.layers
            ]
            alone = single(batch, samples, i)
            with torch.no_grad():
                made(**alone, use_cache=False)
            for handle in handles:
                handle.remove()
            visual = int((alone["input_ids"] == 5).sum())
            text = alone["input_ids"].shape[1] - visual
            assert [n[0] for n in session.run.lengths] == [n - text for n in seen]
            assert session.budget().mean == pytest.approx(sum(n - text for n in seen) / (LAYERS * visual))
        with torch.no_grad():
            made(**batch, use_cache=False)
        budget = session.budget()
        per_sample = [sum(n[b] for n in session.run.lengths) / (LAYERS * session.run.n[b]) for b in range(2)]
        assert budget.maximum == max(per_sample)
        assert min(per_sample) <= budget.mean <= max(per_sample)


def snapshot(made: Any) -> dict[str, Any]:
    """Everything of a model that a session touches; `rope_deltas` is what Qwen models remember of a run themselves."""
    found: dict[str, Any] = {name: value.clone() for name, value in made.state_dict().items()}
    for name, module in made.named_modules():
        kept = {k: v for k, v in vars(module).items() if not isinstance(v, dict) and k != "rope_deltas"}
        found[f"{name}#attributes"] = {k: id(v) for k, v in kept.items()}
        found[f"{name}#hooks"] = (
            len(module._forward_pre_hooks),
            len(module._forward_hooks),
            len(module._forward_pre_hooks_with_kwargs),
            len(module._forward_hooks_always_called),
        )
    return found


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    def equal(x: Any, y: Any) -> bool:
        return torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y

    return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)


EVERYTHING = policy(stage(1, "1/2", "encoder_attention"), stage(3, "1/4", ("llm_attention", {"layer": "own"})))


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_detaching_restores_the_model(family: str) -> None:
    made = copy.deepcopy(model(family))
    batch = inputs(made, TWO)
    base = generate(made, batch, 3)
    before = snapshot(made)
    with Session(made, EVERYTHING):
        assert not same(snapshot(made), before)
        assert difference(generate(made, batch, 3), base) > 1e-3
    assert same(snapshot(made), before)
    assert difference(generate(made, batch, 3), base) == 0.0


def test_an_exception_inside_the_model_leaves_nothing_behind() -> None:
    made = copy.deepcopy(model())
    batch = inputs(made, TWO)
    base = generate(made, batch, 3)
    before = snapshot(made)

    def fail(module: Any, args: Any) -> None:
        raise RuntimeError("broken layer")

    session = Session(made, EVERYTHING)
    handle = made.model.language_model.layers[4].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken layer"), session:
        generate(made, batch, 3)
    handle.remove()
    assert same(snapshot(made), before)
    assert difference(generate(made, batch, 3), base) == 0.0
    with session:  # and the session can be entered again
        assert difference(generate(made, batch, 3), base) > 1e-3


def test_a_failed_forward_does_not_disturb_the_next() -> None:
    made = model()
    batch = inputs(made, TWO)
    with Session(made, POLICY):
        good = generate(made, batch, 3)
        with pytest.raises(AutoPruneError, match="no image was given"):
            generate(made, {k: v for k, v in batch.items() if k != "pixel_values"}, 3)
        assert difference(generate(made, batch, 3), good) == 0.0


def test_two_policies_alternate_and_nesting_is_refused() -> None:
    made = model()
    batch = inputs(made, TWO)
    other = policy(stage(2, "1/3", None, "stride"))
    first, second = Session(made, POLICY), Session(made, other)
    with first:
        one = generate(made, batch, 4)
        with pytest.raises(AutoPruneError, match="already attached"):
            second.__enter__()
        assert difference(generate(made, batch, 4), one) == 0.0
    with second:
        two = generate(made, batch, 4)
    with first:
        assert difference(generate(made, batch, 4), one) == 0.0
    with second:
        assert difference(generate(made, batch, 4), two) == 0.0
    assert difference(one, two) > 1e-3


def test_an_override_holds_for_one_request() -> None:
    made = model()
    batch = inputs(made, TWO)
    base = generate(made, batch, 4)
    with Session(made, EVERYTHING):
        other = generate(made, batch, 4)
    with Session(made, POLICY) as session:
        one = generate(made, batch, 4)
        with session.override(None):
            assert difference(generate(made, batch, 4), base) == 0.0
            assert session.budget().mean == 1.0
        with session.override(EVERYTHING):
            assert difference(generate(made, batch, 4), other) == 0.0
        assert difference(generate(made, batch, 4), one) == 0.0
    assert difference(generate(made, batch, 4), base) == 0.0


def test_a_static_cache_is_refused() -> None:
    made = model()
    batch = inputs(made, TWO[:1])
    cache = StaticCache(config=made.config, max_cache_len=80)
    with Session(made, POLICY), pytest.raises(AutoPruneError, match="StaticCache cannot hold a pruned sequence"):
        generate(made, batch, 2, past_key_values=cache)


def test_text_alone_runs_and_is_recorded() -> None:
    made = model()
    batch = inputs(made, [Sample(9, ()), Sample(14, ())])
    base = generate(made, batch, 3)
    with Session(made, POLICY) as session:
        assert difference(generate(made, batch, 3), base) == 0.0
    assert session.run.n == [0, 0]
    assert session.budget().mean == 1.0
    assert session.run.kept(3, 0) == []


def test_features_computed_elsewhere_are_refused() -> None:
    made = model()
    batch = inputs(made, TWO[:1])
    with torch.no_grad():
        features = made.model.get_image_features(batch.pop("pixel_values"), return_dict=True)
        with Session(made, POLICY), pytest.raises(AutoPruneError, match="attach before computing"):
            made(**batch, mm_encoder_outputs={"image": features})


def test_hidden_states_and_logits_are_physical() -> None:
    made = model()
    batch = inputs(made, TWO[:1])
    with Session(made, POLICY) as session, torch.no_grad():
        found = made(**batch, output_hidden_states=True)
    index, valid = session.run.index(LAYERS - 1)
    assert valid is None
    assert found.logits.shape[1] == index.shape[1]
    assert [h.shape[1] for h in found.hidden_states[1:]] == [x.width for x in session.run.layouts]


def test_no_run_yet_is_said() -> None:
    with Session(model(), POLICY) as session, pytest.raises(AutoPruneError, match="nothing has run"):
        session.budget()
