"""CATP on a model: pairs of a picture and its text, against the oracle and plain means in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from llm_reference import captured, cosine, maps
from oracles.attention import catp_stage_2
from oracles.similarity import catp_stage_1, unit
from pruning_support import inputs, model, policy, single, stage
from test_pruning_catalog import deep, prefill
from tiny_families import IMAGE, Sample

from autoprune.document.yaml import read
from autoprune.models.family import geometry_of
from autoprune.policy import catalog
from autoprune.policy.canonical import resolve
from autoprune.policy.document import Policy
from autoprune.policy.resolved import ResolvedPolicy
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.session import Session

SHOTS = Sample(12, ((48, 96),) * 3)  # two demonstrations and a query
SAMPLES = [SHOTS, Sample(7), Sample(9, ()), Sample(8, ((48, 96),) * 2)]
COVER = {
    "kernel": "cosine",
    "space": "projected",
    "text_weight": 0,
    "vision_weight": 1,
    "score_weight": 0.7,
    "score_scale": "cosine",
}
Columns = list[list[int]]


def pairs(batch: dict[str, torch.Tensor]) -> tuple[Columns, Columns]:
    """Columns of each picture, and of the text that follows it, of one unpadded sample."""
    pictures: Columns = []
    texts: Columns = []
    before = 0
    for column, token in enumerate(batch["input_ids"][0].tolist()):
        if token == IMAGE and before != IMAGE:
            pictures.append([])
            texts.append([])
        if pictures:
            (pictures if token == IMAGE else texts)[-1].append(column)
        before = token
    return pictures, texts


def entering(batch: dict[str, torch.Tensor], layer: int) -> Any:
    """What enters a decoder layer of the untouched model, [n, D] in float64."""
    caught: list[torch.Tensor] = []
    made = model()
    handle = made.model.language_model.layers[layer].register_forward_pre_hook(lambda m, a: caught.append(a[0][0]))
    with torch.no_grad():
        made(**batch, use_cache=False)
    handle.remove()
    return np.array(caught[0].double().tolist())


def scores(params: dict[str, Any], batch: dict[str, torch.Tensor], layer: int = 3) -> list[list[float]]:
    return captured(model(), batch, policy(stage(layer, "1/2", ("similarity", params))))


def close(found: Any, expected: Any) -> bool:
    return len(found) == len(expected) and bool(np.allclose(found, expected, atol=1e-5))


@pytest.mark.parametrize("number", [0, 1, 3])
def test_the_three_likenesses(number: int) -> None:
    """To the text of its own pair, to the mean of the query and to that of what comes before it."""
    batch = inputs(model(), SAMPLES)
    alone = single(batch, SAMPLES, number)
    pictures, texts = pairs(alone)
    assert len(pictures) == len(SAMPLES[number].images)
    visual = [c for picture in pictures for c in picture]
    embedded, hidden = entering(alone, 0), entering(alone, 3)
    about = [embedded[text].mean(0) for text in texts]
    own = [cosine(embedded[c], about[p]) for p, picture in enumerate(pictures) for c in picture]
    query = hidden[pictures[-1] + texts[-1]].mean(0)
    context = [c for pair in zip(pictures[:-1], texts[:-1], strict=True) for part in pair for c in part]
    before = hidden[context].mean(0) if context else query
    expected = {
        ("pair", "projected"): own,
        ("query", "hidden"): [cosine(hidden[c], query) for c in visual],
        ("context", "hidden"): [cosine(hidden[c], before) for c in visual],
    }
    for (source, space), values in expected.items():
        (found,) = scores({"space": space, "from": source}, alone)
        assert close(found, values)
        together = scores({"space": space, "from": source}, batch)[number]
        assert close(together[: len(visual)], values)


def test_the_first_stage_covers_every_picture_by_itself() -> None:
    batch = inputs(model(), SAMPLES)
    one = ("similarity", {"space": "projected", "from": "pair"})
    first = stage(0, "11/18", one, ("cover", COVER))
    for number in (0, 1, 3):
        alone = single(batch, SAMPLES, number)
        pictures, texts = pairs(alone)
        embedded = entering(alone, 0)
        expected = []
        for i, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
            chosen = catp_stage_1(embedded[picture], embedded[text], 22)
            assert sorted(chosen) != sorted(catp_stage_1(embedded[picture], embedded[text], 22, weight=70))
            expected += [36 * i + c for c in sorted(chosen)]
        for given, place in ((alone, 0), (batch, number)):
            with Session(model(), grouped(first)) as session, torch.no_grad():
                model()(**given)
                assert session.run.kept(0, place) == expected


def grouped(first: Any) -> ResolvedPolicy:
    from dataclasses import replace

    from autoprune.policy.resolved import Part

    (pick,) = first.picks
    return policy(replace(first, picks=(replace(pick, group=Part("image", {"split": "size"})),)))


def test_the_second_stage_is_the_oracle() -> None:
    """Growth of the last word's attention and likeness to the query, of the demonstrations' tokens."""
    batch = inputs(model(), SAMPLES)
    alone = single(batch, SAMPLES, 0)
    pictures, texts = pairs(alone)
    hidden = entering(alone, 3)
    context = pictures[0] + pictures[1]
    attention = np.array(maps(alone, 2)), np.array(maps(alone, 1))
    expected = catp_stage_2(*attention, hidden, context, pictures[2] + texts[2])
    (rise,) = captured(model(), alone, policy(stage(3, "1/2", ("llm_attention", {"rise": True}))))
    (asked,) = scores({"space": "hidden", "from": "query"}, alone)
    found = [r + 0.6 * a for r, a in zip(rise, asked, strict=True)]
    assert close(found[: len(context)], expected)
    assert unit(1.0) == 1  # what the first stage does to a cosine


def test_the_document_drops_demonstrations_first_and_then_the_query() -> None:
    """Five pictures of 36 tokens: 22 each; 54 with all 22 of the query; 40 with the same 32 of the demonstrations."""
    made = deep()
    document = Policy.from_source(read(catalog.find("policies", "catp")), RegisteredParts())
    resolved = resolve(document, geometry_of(made.config.to_dict()), RegisteredParts(), 180)
    samples = [Sample(14, ((48, 96),) * 5), Sample(19, ((48, 96),) * 5)]
    run = prefill(resolved, inputs(made, samples))
    for sample in range(2):
        first, second, third = (run.kept(layer, sample) for layer in (6, 7, 8))
        assert [sum(36 * i <= t < 36 * i + 36 for t in first) for i in range(5)] == [22] * 5
        query = [t for t in first if t >= 144]
        assert [t for t in second if t >= 144] == query
        assert len(second) == 54
        assert [t for t in third if t < 144] == [t for t in second if t < 144]
        assert len(third) == 40
        assert run.kept(5, sample) == first
        assert run.kept(31, sample) == third


def test_after_a_stage_the_means_are_over_what_is_left() -> None:
    """From the pruned run's own states, row by row: pictures as far as they are there, and all of the text."""
    made, batch = model(), inputs(model(), SAMPLES)
    caught: list[torch.Tensor] = []
    handle = made.model.language_model.layers[2].register_forward_hook(
        lambda m, a, o: caught.append((o[0] if isinstance(o, tuple) else o).double())
    )
    found: dict[str, list[list[float]]] = {}
    for source in ("query", "context"):
        likeness = ("similarity", {"space": "hidden", "from": source})
        resolved = policy(stage(1, "1/3", "random"), stage(3, "1/6", likeness))
        found[source] = captured(made, batch, resolved, 1)
    with Session(made, resolved) as session, torch.no_grad():
        made(**batch, use_cache=False)
    handle.remove()
    index, valid = session.run.index(2)
    for number in (0, 1, 3):
        alone = single(batch, SAMPLES, number)
        padding = batch["input_ids"].shape[1] - alone["input_ids"].shape[1]
        rows: dict[int, Any] = {}
        for place, column in enumerate(index[number].tolist()):
            if valid is None or bool(valid[number, place]):
                rows[column - padding] = caught[-1][number, place].numpy()
        pictures, texts = pairs(alone)
        left = [[c for c in picture if c in rows] for picture in pictures]
        assert sum(map(len, left)) == 12 * len(pictures)
        last = left[-1] + texts[-1]
        before = [c for i in range(len(pictures) - 1) for c in left[i] + texts[i]]
        for source, columns in (("query", last), ("context", before or last)):
            mean = np.array([rows[c] for c in columns]).mean(0)
            expected = [cosine(rows[c], mean) for picture in left for c in picture]
            assert close(found[source][number][: len(expected)], expected)


@pytest.mark.parametrize("source", ["pair", "query", "context"])
def test_answers_are_no_part_of_the_query(source: str) -> None:
    batch = inputs(model(), [SHOTS])
    answer = torch.tensor([[40, 41, 42]])
    both = {
        **batch,
        "input_ids": torch.cat([batch["input_ids"], answer], 1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.ones_like(answer)], 1),
    }
    resolved = policy(stage(3, "1/2", ("similarity", {"space": "hidden", "from": source})))
    (expected,) = captured(model(), batch, resolved)
    (found,) = captured(model(), both, resolved, answer_start=batch["input_ids"].shape[1])
    assert close(found, expected)
