"""GAP: kept tokens keep their position ids. What `compact` loses is what `keep` holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pruning_support import MaskedReference, inputs, model, policy, stage
from tiny_families import IMAGE, Sample

from autoprune.pruning.record import Run
from autoprune.pruning.session import Session

SAMPLES = [Sample(9, ((48, 96), (48, 96))), Sample(14)]
LAYER, LAST = 2, 5


def pruned(positions: str, selector: str = "top") -> tuple[torch.Tensor, Run, dict[str, Any]]:
    """Logits at the last row of each sample, the record, and what entered the last decoder layer."""
    made, seen = model(), {}
    layer = made.model.language_model.layers[LAST]
    half = policy(stage(LAYER, "1/4", "random", selector, positions=positions))
    with Session(made, half) as session, torch.no_grad():
        handle = layer.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
        try:
            logits = made(**inputs(made, SAMPLES), use_cache=False).logits[:, -1]
        finally:
            handle.remove()
        return logits, session.run, seen


def ids(kwargs: dict[str, Any], rows: torch.Tensor) -> torch.Tensor:
    """Position ids [n] that stand behind (cos, sin) [n, D], by looking them up among those of all positions."""
    language_model = model().model.language_model
    every = language_model.rotary_emb(torch.zeros(1, 1, 1), position_ids=torch.arange(200)[None])
    known = torch.cat(every, -1)[0]
    own = torch.cat([part[0 if part.shape[0] == 1 else 1] for part in kwargs["position_embeddings"]], -1)
    return torch.cdist(own[rows], known).argmin(1)


def reference(run: Run) -> torch.Tensor:
    made = model()
    with MaskedReference(made, run), torch.no_grad():
        logits: torch.Tensor = made(**inputs(made, SAMPLES), use_cache=False).logits[:, -1]
    return logits


def test_keep_is_the_unpruned_model_without_the_dropped_keys_and_compact_is_not() -> None:
    keep, run, _ = pruned("keep")
    compact, same, _ = pruned("compact")
    for sample in range(len(SAMPLES)):
        assert run.kept(LAST, sample) == same.kept(LAST, sample)  # the same tokens; only their numbers differ
    expected = reference(run)
    assert torch.allclose(keep, expected, atol=1e-3)
    assert float((compact - expected).abs().amax()) > 100 * float((keep - expected).abs().amax())


@pytest.mark.parametrize("selector", ["top", "far"])
def test_ids_and_order_are_those_of_the_unpruned_prompt(selector: str) -> None:
    """Of the second sample: system text, kept tokens, question, each where the unpruned prompt has them."""
    _, run, kwargs = pruned("keep", selector)
    index, valid = run.index(LAST)
    real = torch.ones_like(index[1], dtype=torch.bool) if valid is None else valid[1]
    batch = inputs(model(), SAMPLES)
    visual = (batch["input_ids"][1] == IMAGE).nonzero()[:, 0]
    text = ((batch["input_ids"][1] != IMAGE) & batch["attention_mask"][1].bool()).nonzero()[:, 0]
    columns = sorted([*text.tolist(), *visual[run.kept(LAST, 1)].tolist()])
    assert index[1][real].tolist() == columns
    start = int(batch["attention_mask"][1].argmax())  # left padding
    offset = int(ids(kwargs, real)[0])
    assert offset in (0, start)  # whether the library counts the padding or not
    assert ids(kwargs, real).tolist() == [c - columns[0] + offset for c in columns]
    _, run, kwargs = pruned("compact", selector)
    assert ids(kwargs, real).tolist() == list(range(len(columns)))
