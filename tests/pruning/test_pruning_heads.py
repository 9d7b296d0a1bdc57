"""Scores of single heads, and the largest of several rows: on real runs, against loops over the model's attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from llm_reference import Prompt, captured, heads_together, maps, only
from pruning_support import Sample, inputs, model, policy, single, stage
from vision_support import SAMPLES, pictures, projections
from vision_support import maps as tower_maps

from autoprune.policy.resolved import Part
from autoprune.pruning import prefill
from autoprune.pruning.plan import evaluate
from autoprune.pruning.session import Session

ONE = [Sample(9)]
SEVERAL = [Sample(9), Sample(14, ((48, 96), (48, 96))), Sample(6, ())]


def by_head(made: Any, batch: dict[str, torch.Tensor], criterion: tuple[str, dict[str, Any]], layer: int = 2) -> Any:
    """What a stage of heads sees, and how many tokens enter the layer then: [B, V, H], per sample."""
    seen: list[torch.Tensor] = []
    module: Any = prefill
    original = module.reduce

    def spy(planned: Any, view: Any, *rest: Any) -> Any:
        seen.append(evaluate(planned.picks[0].score, view))
        return original(planned, view, *rest)

    one = stage(layer, "1/3", criterion)
    one = replace(one, picks=(replace(one.picks[0], group=Part("head", {})),))
    module.reduce = spy
    try:
        with Session(made, policy(one)) as session, torch.no_grad():
            made(**batch, use_cache=False)
            run = session.run
    finally:
        module.reduce = original
    return seen[0].double(), [run.kept(layer, b) for b in range(len(run.n))]


def test_every_head_of_the_tower_has_its_own_row() -> None:
    made, batch = model(), inputs(model(), ONE)
    found, kept = by_head(made, batch, ("encoder_attention", {"layer": 1, "heads": "each"}))
    query, key = projections(made, batch["pixel_values"], 1)
    own = tower_maps(query[0], key[0], 1.0, False)
    assert found.shape == (1, 36, 2)
    for head in range(2):
        assert torch.allclose(found[0, :, head], torch.tensor(own[head][0][1:]).double(), atol=1e-6)
    assert len(kept[0]) == 12
    expected: list[int] = []
    for head in range(2):  # six for each, the second among what the first left
        values = found[0, :, head].tolist()
        expected += sorted((t for t in range(36) if t not in expected), key=lambda t: (-values[t], t))[:6]
    assert kept[0] == sorted(expected)


@pytest.mark.parametrize("params", [{"from": "all", "hops": 3}, {"from": "patches", "hops": 2, "gate": 1.2}], ids=str)
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_heads_together_are_the_mean_and_the_largest(family: str, params: dict[str, Any]) -> None:
    """`each` is what `mean` and (where heads never meet on the way) `max` are made of; newlines have none."""
    made, samples = model(family), SAMPLES[family]
    batch = inputs(made, samples)
    apart, _ = by_head(made, batch, ("encoder_attention", {"layer": 1, "heads": "each", **params}))
    (mean, *_), (top, *_) = (
        captured(made, batch, policy(stage(2, "1/3", ("encoder_attention", {"layer": 1, "heads": heads, **params}))))
        for heads in ("mean", "max")
    )
    count = len(mean)
    assert torch.allclose(apart[0, :count].mean(1), torch.tensor(mean).double(), atol=1e-6)
    if "gate" not in params:
        assert torch.allclose(apart[0, :count].amax(1), torch.tensor(top).double(), atol=1e-6)
    assert pictures(made, batch).shape[0] >= 1


@pytest.mark.parametrize("source", ["last", "text"])
def test_every_head_of_the_language_model_has_its_own_row(source: str) -> None:
    batch = inputs(model(), ONE)
    prompt, attention = Prompt(batch), maps(batch, 2, True, 1.0)
    found, _ = by_head(model(), batch, ("llm_attention", {"layer": 2, "from": source, "heads": "each"}), 4)
    rows = prompt.text[-1:] if source == "last" else prompt.text
    for head, weights in enumerate(attention):
        expected = [sum(weights[r][c] for r in rows) / len(rows) for c in prompt.visual]
        assert torch.allclose(found[0, :, head], torch.tensor(expected).double(), atol=1e-5)


@pytest.mark.parametrize("criterion", ["encoder_attention", "llm_attention"])
def test_a_padded_batch_of_heads_is_its_samples(criterion: str) -> None:
    made = model()
    batch = inputs(made, SEVERAL)
    together, kept = by_head(made, batch, (criterion, {"layer": 1, "heads": "each"}))
    assert [len(k) for k in kept] == [12, 24, 0]
    for b in (0, 1):
        alone, own = by_head(made, single(batch, SEVERAL, b), (criterion, {"layer": 1, "heads": "each"}))
        assert torch.allclose(alone[0], together[b, : alone.shape[1]], atol=1e-5)
        assert own[0] == kept[b]


@pytest.mark.parametrize(
    ("heads", "over_keys"),  # over vision alone every head brings the same, so that no half of them is the top
    [*((h, "all") for h in ("mean", "sum", "max", "rms", "top_half")), ("mean", "vision"), ("max", "vision")],
)
def test_of_several_rows_the_largest(heads: str, over_keys: str) -> None:
    """PTP's instruction score: the heads meet in every row of the text, and a token has the largest of them."""
    batch = inputs(model(), ONE)
    prompt, attention = Prompt(batch), maps(batch, 2, True, 1.0)
    if over_keys == "vision":
        attention = [only(rows, prompt.visual) for rows in attention]
    rows = [heads_together([weights[r] for weights in attention], heads, prompt.visual) for r in prompt.text]
    expected = [max(row[c] for row in rows) for c in prompt.visual]
    assert len(prompt.text) > 1
    params = {"layer": 2, "from": "text", "rows": "max", "heads": heads, "over_keys": over_keys}
    (found,) = captured(model(), batch, policy(stage(4, "1/2", ("llm_attention", params))))
    assert found == pytest.approx(expected, abs=1e-5)
    apart, _ = by_head(model(), batch, ("llm_attention", {**params, "heads": "each"}), 4)
    largest = [[max(w[r][c] for r in prompt.text) for w in attention] for c in prompt.visual]
    assert torch.allclose(apart[0], torch.tensor(largest).double(), atol=1e-5)
