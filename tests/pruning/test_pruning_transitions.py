"""token_transition: against plain loops over what an eager model's modules take in and give out."""

from __future__ import annotations

import math
from typing import Any

import torch
from llm_reference import Prompt, captured, close, cosine, length
from pruning_support import MaskedReference, inputs, model, policy, single, stage
from tiny_families import Sample

from autoprune.pruning.session import Session

SAMPLES = [Sample(9), Sample(16, ((48, 96), (48, 96))), Sample(5)]
ONE = [Sample(12)]


def transitions(batch: dict[str, torch.Tensor], layer: int, alive: list[int]) -> dict[int, float]:
    """TransPrune's value of every column that is there, of attention and MLP together."""
    made = model("llava", "eager")
    module = made.model.language_model.layers[layer]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def hook(m: Any, args: Any, kwargs: Any, out: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        seen.append((before[0].double(), (out[0] if isinstance(out, tuple) else out)[0].double()))

    handles = [m.register_forward_hook(hook, with_kwargs=True) for m in (module.self_attn, module.mlp)]
    with torch.no_grad():
        made(**batch, use_cache=False)
    for handle in handles:
        handle.remove()
    total = dict.fromkeys(alive, 0.0)
    for x, y in seen:
        before, after = x.tolist(), y.tolist()
        turned = {c: math.exp(1 - cosine(before[c], after[c])) for c in alive}
        for c in alive:
            total[c] += length(after[c]) / length(before[c]) * turned[c] / sum(turned.values())
    return total


def test_transitions_are_those_of_the_modules() -> None:
    made = model()
    batch = inputs(made, SAMPLES)
    found = captured(made, batch, policy(stage(3, "1/2", ("token_transition", {"layers": [1, 2]}))))
    default = captured(made, batch, policy(stage(3, "1/2", "token_transition")))
    for b in range(len(SAMPLES)):
        alone = single(batch, SAMPLES, b)
        prompt = Prompt(alone)
        one, two = (transitions(alone, layer, prompt.all) for layer in (1, 2))
        assert close(found[b], [one[c] + two[c] for c in prompt.visual])
        assert close(default[b], [two[c] for c in prompt.visual])


def test_transitions_of_survivors_add_up_over_an_earlier_stage() -> None:
    made = model()
    batch = inputs(made, ONE)
    prompt = Prompt(batch)
    resolved = policy(stage(2, "1/3", "random"), stage(4, "1/6", ("token_transition", {"layers": [1, 3]})))
    (found,) = captured(made, batch, resolved, 1)
    with Session(made, resolved) as session, torch.no_grad():
        made(**batch, use_cache=False)
    left = [prompt.visual[i] for i in session.run.kept(3, 0)]
    alive = [c for c in prompt.all if c not in set(prompt.visual) - set(left)]
    with MaskedReference(model("llava", "eager"), session.run):
        steps = [transitions(batch, 1, prompt.all), *(transitions(batch, layer, alive) for layer in (2, 3))]
    assert close(found, [sum(s[c] for s in steps) for c in left])


def test_modules_are_left_as_they_were() -> None:
    made = model()
    layer = made.model.language_model.layers[2]
    before = [dict(part._forward_hooks) for part in (layer.mlp, layer.self_attn)]  # the library may have its own
    with Session(made, policy(stage(3, "1/2", "token_transition"))):
        assert len(layer.mlp._forward_hooks) == len(before[0]) + 1
        assert len(layer.self_attn._forward_hooks) == len(before[1]) + 1
    assert [dict(part._forward_hooks) for part in (layer.mlp, layer.self_attn)] == before
