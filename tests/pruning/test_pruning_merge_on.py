"""Merging before the projector: kept' = projector(W x) for the rows x that enter it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from family_checks import check_a_batch_is_its_samples, check_keeping_everything
from oracles import merging
from pruning_support import LAYERS, Sample, policy, stage
from tiny_families import TINY, Batch, model, together

from autoprune.errors import BadInput
from autoprune.models.family import geometry_of
from autoprune.policy.canonical import from_json, resolve, to_json
from autoprune.policy.document import Policy
from autoprune.policy.resolved import ResolvedPolicy, ResolvedStage
from autoprune.pruning import prefill
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.plan import make_plan
from autoprune.pruning.session import Session

PARTS = RegisteredParts()
SHRUNK = "onevision_shrunk"  # its tokens are means of rows, made after the projector
ROWWISE = ("llava", "llava_next", "llava_onevision", SHRUNK)
OTHERS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "gemma3")
MERGERS = ("soft", ("nearest", {"space": "encoder"}), ("knn", {"neighbours": 4, "residual": True}))
FAR = ("far", {"space": "encoder"})


def encoder(keep: str | int, merge: Any = MERGERS[0], on: Any = "encoder", **options: Any) -> ResolvedStage:
    score = ("feature_norm", {"space": "encoder"})
    return replace(stage(0, keep, score, FAR, merge, **options), merge_on=on)


def document(**options: Any) -> Policy:
    one = {"at": "projector", "keep": "1/2", "score": "random", **options}
    return Policy.parse({"schema": "autoprune/policy/1", "stages": [one]}, PARTS)


def bound(name: str, **options: Any) -> ResolvedPolicy:
    geometry = geometry_of(model(name).config.to_dict())
    found = resolve(document(**options), geometry, PARTS)
    assert from_json(to_json(found)) == found
    return found


def entering(made: Any, resolved: ResolvedPolicy, batch: Batch) -> tuple[torch.Tensor, Any, list[Any]]:
    """Rows [B, n, D] that run through the first layer, the run, and the stages' outcomes with what they saw."""
    rows: list[torch.Tensor] = []
    seen: list[Any] = []
    module: Any = prefill
    original = module.reduce

    def spy(planned: Any, view: Any, *rest: Any) -> Any:
        seen.append((view, original(planned, view, *rest)))
        return seen[-1][1]

    module.reduce = spy
    try:
        with Session(made, resolved) as session, torch.no_grad():
            layer = made.model.language_model.layers[0]
            handle = layer.register_forward_pre_hook(lambda m, args, kwargs: rows.append(args[0]), with_kwargs=True)
            made(**batch, use_cache=False)
            handle.remove()
        return rows[0], session.run, seen
    finally:
        module.reduce = original


def tower_rows(made: Any, batch: Batch) -> tuple[np.ndarray, Any]:
    """What enters the projector, all rows of all tower inputs one after the other; and the projector's two layers."""
    caught: list[torch.Tensor] = []
    projector = made.model.multi_modal_projector
    handle = projector.register_forward_pre_hook(lambda m, args: caught.append(args[0]))
    with torch.no_grad():
        made(**batch, use_cache=False)
    handle.remove()
    layers = [
        tuple(value.detach().double().numpy() for value in (layer.weight, layer.bias))
        for layer in (projector.linear_1, projector.linear_2)
    ]
    return caught[0].flatten(0, 1).double().numpy(), layers


@pytest.mark.parametrize("merge", MERGERS, ids=str)
@pytest.mark.parametrize("name", ROWWISE)
def test_rows_are_merged_where_they_enter_the_projector(name: str, merge: Any) -> None:
    """Against float64: the stage's own W on the rows of the untouched tower, then the projector's formula."""
    made, tiny = model(name), TINY[name]
    batch = together(tiny.rows(tiny.ragged[:1]))
    found, run, ((view, done),) = entering(made, policy(encoder("1/4", merge)), batch)
    rows, (first, second) = tower_rows(made, batch)
    (facts,) = run_facts(made, batch)
    newline = facts.newline.numpy()
    index, _ = run.index(0)
    visual = (batch["input_ids"].gather(1, index) == made.config.image_token_id)[0]
    matrix, kept = done.matrix[0].double().numpy(), done.kept.index[0].numpy()
    assert (matrix > 0).sum() > 2 * len(kept)  # there is something to merge
    expected = merging.project(merging.fold(matrix, of_tokens(rows, facts.layout)), first, second)
    before, after = view.hidden[0].double().numpy(), found[0][visual].double().numpy()
    alone = (matrix > 0).sum(1) == 1
    assert alone[newline[kept]].all()
    if name != SHRUNK:
        patches = alone & ~newline[kept]
        assert expected[patches] == pytest.approx(before[kept][patches], abs=2e-5)
    expected[alone] = before[kept][alone]
    assert after == pytest.approx(expected, abs=2e-5)
    assert np.abs(after - matrix @ before).max() > 1e-3  # after the projector it is another row
    assert (after[alone] == before[kept][alone]).all()


def of_tokens(rows: np.ndarray, layout: Any) -> np.ndarray:
    """The row of the tower of each visual token, by loops; of a shrunk picture the mean that its token is."""
    if layout.members is None:
        return np.array([rows[max(int(i), 0)] for i in layout.source])
    pairs = zip(layout.members.tolist(), layout.weights.tolist(), strict=True)
    return np.array([sum(w * rows[i] for i, w in zip(m, ws, strict=True)) for m, ws in pairs])


def run_facts(made: Any, batch: Batch) -> Any:
    from autoprune.pruning.facts import ATTRIBUTE

    vision = {k: v for k, v in batch.items() if k in ("pixel_values", "image_sizes", "batch_num_images")}
    with Session(made, policy(encoder("1/4"))), torch.no_grad():
        output = made.model.get_image_features(**vision, return_dict=True)
    features = output.pooler_output
    return getattr(output, ATTRIBUTE) if hasattr(features, "shape") else [getattr(f, ATTRIBUTE) for f in features]


@pytest.mark.parametrize("name", ROWWISE)
def test_a_batch_is_its_samples_and_keeping_all_is_the_model(name: str) -> None:
    check_keeping_everything(name, "sdpa", policy(encoder(1)))
    for merge in MERGERS:
        check_a_batch_is_its_samples(name, "sdpa", policy(encoder("1/3", merge)), TINY[name].odd)


def test_a_sample_that_loses_nothing_is_not_projected_again() -> None:
    """Beside one that does; and what is merged there is not what is merged after the projector."""
    made, tiny = model("llava_next"), TINY["llava_next"]
    rows = tiny.rows((Sample(9, ((48, 96),)), Sample(15, ((96, 96),))))
    counts = [int((r.tokens["input_ids"] == made.config.image_token_id).sum()) for r in rows]
    assert counts[0] < counts[1]
    batch = together(rows)
    found, run, _ = entering(made, policy(encoder(counts[0], kind="tokens")), batch)
    untouched, _, _ = entering(made, policy(), batch)
    after, _, _ = entering(made, policy(encoder(counts[0], on="projected", kind="tokens")), batch)
    real = batch["attention_mask"][0].bool()
    assert run.kept(0, 0) == list(range(counts[0]))
    assert torch.equal(found[0, -int(real.sum()) :], untouched[0][real])
    assert float((found[1] - after[1]).abs().max()) > 1e-3


# ------------------------------------------------------------------------------------------------------------ documents
@pytest.mark.parametrize("name", ROWWISE)
def test_the_earliest_is_the_encoder_where_rows_are_projected_one_by_one(name: str) -> None:
    assert bound(name, merge="soft", merge_on="earliest") == bound(name, merge="soft", merge_on="encoder")
    assert bound(name, merge="soft", merge_on="earliest") != bound(name, merge="soft")


@pytest.mark.parametrize("name", OTHERS)
def test_where_rows_are_mixed_the_earliest_is_after_the_projector(name: str) -> None:
    assert bound(name, merge="soft", merge_on="earliest") == bound(name, merge="soft")
    strict = bound(name, merge="soft", merge_on="encoder")
    with pytest.raises(BadInput, match="needs a projector that makes each visual token of one row of the tower"):
        make_plan(strict, geometry_of(model(name).config.to_dict()))


@pytest.mark.parametrize("merge", ["drop", "park"])
def test_without_merging_it_says_nothing(merge: str) -> None:
    assert bound("llava", merge=merge, merge_on="encoder") == bound("llava", merge=merge)


def test_a_document_says_it_and_a_stage_in_the_language_model_may_not() -> None:
    given = document(merge="soft", merge_on="encoder")
    assert given.dump()["stages"][0]["merge_on"] == "encoder"
    assert Policy.parse(given.dump()) == given
    assert "merge_on" not in document(merge="soft", merge_on="projected").dump()["stages"][0]
    assert bound("llava", merge="soft", merge_on="encoder").stages[0].layer == 0 < LAYERS
    with pytest.raises(BadInput, match=r"stages\[0\]\.merge_on: merge_on: encoder is legal at projector, not at llm:2"):
        document(at="llm:2", merge="soft", merge_on="encoder")
