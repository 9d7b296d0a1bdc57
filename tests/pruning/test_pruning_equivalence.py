"""A pruned run equals the untouched model with the dropped keys masked; a batch equals its samples."""

from __future__ import annotations

import pytest
import torch
from pruning_support import (
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

from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.session import Session

OWN_TEXT = ("llm_attention", {"layer": "own", "from": "text"})
POLICIES = {
    "input": policy(stage(0, "1/2", "encoder_attention")),
    "inside": policy(stage(2, "1/2", "llm_attention"), stage(4, "1/4", OWN_TEXT)),
    "mixed": policy(
        stage(0, "2/3", None, "far", site="projector"), stage(3, "1/5", ("feature_norm", {"space": "keys"}))
    ),
    "drop all": policy(stage(2, 0, None, "stride")),
}
RAGGED = {
    "llava": [Sample(9), Sample(14)],
    "llava_next": [Sample(9), Sample(15, ((96, 96),)), Sample(12, ((96, 48),))],
}
ODD = {  # several images, no image, different text
    "llava": [Sample(9), Sample(12, ()), Sample(16, ((48, 96), (48, 96)))],
    "llava_next": [Sample(16, ((48, 96), (96, 96))), Sample(12, ()), Sample(9, ((96, 48),))],
}
FAMILIES = ("llava", "llava_next")
# The default run sees every policy and every family once; the whole matrix is `full`.
CASES = [
    pytest.param(f, a, p, marks=() if (a == "sdpa" and (f == "llava" or p == "mixed")) else pytest.mark.full)
    for f in FAMILIES
    for a in ("sdpa", "eager")
    for p in POLICIES
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_everything_is_the_untouched_model(family: str, attention: str) -> None:
    made = model(family, attention)
    everything = policy(
        stage(0, 1, "random", merge="nearest"), stage(3, 1, OWN_TEXT, merge="residual", positions="compact")
    )
    for samples in (RAGGED[family], ODD[family], RAGGED[family][:1]):
        batch = inputs(made, samples)
        base = generate(made, batch, 3)
        with Session(made, everything) as session:
            pruned = generate(made, batch, 3)
        assert difference(pruned, base) == 0.0
        assert session.budget().mean == 1.0


@pytest.mark.parametrize(("family", "attention", "name"), CASES)
def test_dropping_is_masking_those_keys(family: str, attention: str, name: str) -> None:
    made = model(family, attention)
    for samples in (RAGGED[family][:1], RAGGED[family]):
        batch = inputs(made, samples)
        with Session(made, POLICIES[name]) as session:
            pruned = generate(made, batch)
        with MaskedReference(made, session.run):
            reference = generate(made, batch)
        assert session.budget().mean < 0.9
        assert difference(pruned, reference) <= 1e-5
        assert difference(pruned, generate(made, batch)) > 1e-3  # the pruning itself is seen


@pytest.mark.parametrize(("family", "attention", "name"), CASES)
@pytest.mark.parametrize("which", ["ragged", "odd"])
def test_a_batch_is_its_samples(family: str, attention: str, name: str, which: str) -> None:
    check_batch(family, attention, POLICIES[name], RAGGED[family] if which == "ragged" else ODD[family])


@pytest.mark.parametrize(
    "stages",
    [
        (stage(1, "1/2", "random", merge="nearest", positions="compact"), stage(3, "1/4", "llm_attention")),
        (stage(2, "1/3", OWN_TEXT, merge="residual"), stage(4, "1/8", "random", "far", positions="compact")),
    ],
    ids=["nearest compact", "residual then compact"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_and_compacted_batches_are_their_samples(family: str, stages: tuple) -> None:  # type: ignore[type-arg]
    check_batch(family, "sdpa", policy(*stages), ODD[family])


def check_batch(family: str, attention: str, resolved: ResolvedPolicy, samples: list[Sample]) -> None:
    made = model(family, attention)
    batch = inputs(made, samples)
    with Session(made, resolved) as session:
        together = generate(made, batch, 5)
        run = session.run
        for i in range(len(samples)):
            alone = generate(made, single(batch, samples, i), 5)
            error = max(float((p[i] - q[0]).abs().max()) for p, q in zip(together.logits, alone.logits, strict=True))
            assert error <= 1e-5
            width = batch["input_ids"].shape[1]
            assert torch.equal(together.sequences[i, width:], alone.sequences[0, -5:])
            for layer in range(6):
                assert session.run.kept(layer, 0) == run.kept(layer, i)


def test_compact_input_is_the_language_model_fed_with_the_kept_rows() -> None:
    made = model()
    batch = inputs(made, [Sample(9)])
    with Session(made, policy(stage(0, "1/2", "random", positions="compact"))) as session:
        pruned = generate(made, batch, 5)
    with torch.no_grad():
        embeds = made.get_input_embeddings()(batch["input_ids"])
        features = torch.cat(made.model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output)
        embeds = embeds.masked_scatter((batch["input_ids"] == 5)[..., None], features)
    kept = embeds[:, session.run.index(0)[0][0]]
    reference = made.generate(
        inputs_embeds=kept,
        max_new_tokens=5,
        min_new_tokens=5,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert difference(pruned, reference) <= 1e-6


def test_keep_after_compact_continues_from_the_compacted_positions() -> None:
    made = model()
    batch = inputs(made, [Sample(9)])
    both = policy(stage(0, "1/2", "random", positions="compact"), stage(3, "1/4", ("random", {"seed": 3})))
    with Session(made, both) as session:
        pruned = generate(made, batch, 5)
    layouts = session.run.layouts
    assert layouts[5].positions is not None
    assert int(layouts[5].positions[0, -1]) == layouts[0].width - 1  # gaps remain, the last row keeps its number
    assert torch.isfinite(pruned.logits[-1]).all()
