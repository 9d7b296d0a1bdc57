"""similarity: against plain loops in float64 over the rows that enter the language model, a layer or the projector."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from llm_reference import Prompt, captured, cosine, length, softmax
from pruning_support import Sample, inputs, model, policy, single, stage
from pydantic import ValidationError

from autoprune.errors import BadInput
from autoprune.pruning import parts
from autoprune.pruning.session import Session

SAMPLES = [Sample(9), Sample(16, ((48, 96), (48, 96))), Sample(5)]
ONE = [Sample(12)]
LAYER = 2


def rows_of(batch: dict[str, torch.Tensor], space: str) -> list[list[float]]:
    """Rows [column][number] of an unpruned run: entering layer 0 or `LAYER`; entering the projector, per patch."""
    made, caught = model(), []
    language_model = made.model.language_model
    module = {"projected": language_model.layers[0], "hidden": language_model.layers[LAYER]}.get(
        space, made.model.multi_modal_projector
    )
    handle = module.register_forward_pre_hook(lambda m, a: caught.append(a[0].double()))
    with torch.no_grad():
        made(**batch, use_cache=False)
    handle.remove()
    found: list[list[float]] = caught[0].flatten(0, 1).tolist()
    return found


def walked(vision: list[list[float]], text: list[list[float]], params: dict[str, Any]) -> list[float]:
    """The criterion by its definition."""
    clip, temperature = params.get("clip", -2), params.get("temperature", 0.03)

    def passed(row: list[float]) -> list[float]:
        cosines = [cosine(row, v) for v in vision]
        kept = [j for j, c in enumerate(cosines) if c >= clip]
        if params.get("kernel") != "softmax":
            return [c if j in kept else 0.0 for j, c in enumerate(cosines)]
        shares = softmax([cosines[j] / temperature for j in kept]) if kept else []
        return [shares[kept.index(j)] if j in kept else 0.0 for j in range(len(vision))]

    start, hops = params.get("from", "text_mean"), params.get("hops", 1)
    if start == "norm":
        lengths = [length(v) for v in vision]
        mass = [x / sum(lengths) for x in lengths]
    elif start == "vision":
        mass = [1 / len(vision)] * len(vision)
    else:
        mean = [sum(column) / len(text) for column in zip(*text, strict=True)]
        mass, hops = passed(text[-1] if start == "last" else mean), hops - 1
    edges = [passed(v) for v in vision]
    for _ in range(hops):
        mass = [sum(m * e[j] for m, e in zip(mass, edges, strict=True)) for j in range(len(vision))]
    if params.get("by_degree"):
        degrees = [sum(cosine(v, w) >= clip for w in vision) for v in vision]
        mass = [m / d for m, d in zip(mass, degrees, strict=True)]
    return [-m if params.get("prefer") == "different" else m for m in mass]


def close(found: list[float], expected: list[float]) -> bool:
    scale = max(abs(x) for x in expected)
    assert len(found) == len(expected)
    return all(abs(f - e) <= 1e-4 * scale for f, e in zip(found, expected, strict=True))


G_PRUNE = {"from": "norm", "kernel": "softmax", "clip": 0.5, "hops": 5, "by_degree": True}
CASES: list[dict[str, Any]] = [
    G_PRUNE,
    {**G_PRUNE, "clip": 0.1, "temperature": 0.2, "hops": 2},
    {**G_PRUNE, "space": "encoder", "clip": 0.2, "hops": 1},
    {"from": "last", "space": "hidden"},
    {"from": "text_mean", "space": "hidden"},
    {"from": "text_mean"},
    {"from": "last", "hops": 3},
    {"from": "last", "kernel": "softmax"},
    {"from": "text_mean", "kernel": "softmax", "temperature": 0.5, "hops": 2, "prefer": "different"},
    {"from": "text_mean", "clip": 0.02, "space": "hidden"},
    {"from": "text_mean", "clip": 0.02, "by_degree": True},
    {"from": "vision", "prefer": "different"},
    {"from": "vision", "prefer": "different", "space": "encoder"},
    {"from": "vision", "clip": 0.1, "hops": 2, "space": "hidden"},
    {"from": "norm"},
]


@pytest.mark.parametrize("params", CASES, ids=str)
def test_walks_along_cosines_are_what_a_plain_loop_says(params: dict[str, Any]) -> None:
    made = model()
    batch = inputs(made, SAMPLES)
    found = captured(made, batch, policy(stage(LAYER, "1/2", ("similarity", params))))
    for b in range(len(SAMPLES)):
        alone = single(batch, SAMPLES, b)
        prompt, rows = Prompt(alone), rows_of(alone, params.get("space", "projected"))
        encoder = params.get("space") == "encoder"
        vision = rows if encoder else [rows[c] for c in prompt.visual]
        text = [] if encoder else [rows[c] for c in prompt.text]
        assert close(found[b], walked(vision, text, params))


def test_edges_are_cut_in_the_cases_that_say_so() -> None:
    """Else `clip` and the degrees would not be tested."""
    batch = inputs(model(), ONE)
    rows = rows_of(batch, "projected")
    vision = [rows[c] for c in Prompt(batch).visual]
    for clip in (0.1, 0.5):
        degrees = {sum(cosine(v, w) >= clip for w in vision) for v in vision}
        assert min(degrees) < len(vision)
        assert len(degrees) > 1 or clip == 0.5


@pytest.mark.parametrize("params", [G_PRUNE, {"from": "text_mean", "space": "hidden"}, {"from": "vision"}], ids=str)
def test_after_a_stage_the_graph_is_of_what_is_left(params: dict[str, Any]) -> None:
    made = model()
    batch = inputs(made, ONE)
    prompt = Prompt(batch)
    resolved = policy(stage(1, "1/3", "random"), stage(3, "1/6", ("similarity", params)))
    caught: list[torch.Tensor] = []
    with Session(made, resolved) as session, torch.no_grad():
        handle = made.model.language_model.layers[2].register_forward_hook(
            lambda m, a, o: caught.append((o[0] if isinstance(o, tuple) else o).double())
        )
        made(**batch, use_cache=False)
        handle.remove()
    (found,) = captured(made, batch, resolved, 1)
    kept = session.run.kept(2, 0)
    if params.get("space") == "hidden":
        rows = caught[0].reshape(-1, caught[0].shape[-1]).tolist()
        first = prompt.visual[0]
        vision, text = rows[first : first + len(kept)], rows[first + len(kept) :]
    else:
        rows = rows_of(batch, "projected")
        vision, text = [rows[prompt.visual[i]] for i in kept], [rows[c] for c in prompt.text]
    assert len(vision) == 12
    assert close(found, walked(vision, text, params))


def test_different_turns_the_order_around() -> None:
    batch = inputs(model(), ONE)
    use = {"from": "vision", "space": "hidden"}
    found = [
        captured(model(), batch, policy(stage(LAYER, "1/2", ("similarity", {**use, "prefer": p}))))[0]
        for p in ("similar", "different")
    ]
    assert found[0] == [-x for x in found[1]]
    assert any(not math.isclose(x, found[0][0]) for x in found[0])


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"space": "encoder"}, "no rows in the space `encoder`"),
        ({"space": "encoder", "from": "last"}, "no rows in the space `encoder`"),
        ({"temperature": 0.1}, "belongs to `kernel: softmax`"),
        ({"kernel": "softmax", "temperature": 0}, "greater than 0"),
        ({"by_degree": True}, "`by_degree` needs it"),
        ({"clip": 2}, "less than or equal to 1"),
        ({"hops": 0}, "greater than or equal to 1"),
        ({"space": "encoder_keys"}, "the prompt has no rows in the space `encoder_keys`"),
        ({"from": "question"}, "Input should be 'text_mean'"),
    ],
    ids=str,
)
def test_parameters_that_make_no_sense_are_refused(params: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as caught:
        Session(model(), policy(stage(LAYER, "1/2", ("similarity", params))))
    assert says in str(caught.value)


def test_one_spelling_for_equal_effects() -> None:
    info = parts.find("criterion", "similarity")
    assert info is not None
    filled = info.config.model_validate({"kernel": "softmax", "temperature": None})
    assert filled == info.config.model_validate({"kernel": "softmax", "temperature": "3/100"})
    assert info.config.model_validate(filled.model_dump(by_alias=True)) == filled
    with pytest.raises(ValidationError):
        info.config.model_validate({"kernel": "softmax", "temperature": -1})
