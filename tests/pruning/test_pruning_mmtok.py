"""MMTok's document on a model: against the oracle, from the model's own embeddings and tower features in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracles.selection import mmtok
from pruning_support import inputs, model, single
from tiny_families import IMAGE, Sample

from autoprune.document.yaml import read
from autoprune.models.family import geometry_of
from autoprune.policy import catalog
from autoprune.policy.canonical import resolve
from autoprune.policy.document import Policy
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.session import Session

SAMPLES = [Sample(12), Sample(9), Sample(16, ((48, 96), (48, 96)))]


def seen(batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    """Rows that enter the language model [n, D] and those that enter the projector [N, Dv]."""
    made = model()
    caught: dict[str, torch.Tensor] = {}
    handles = [
        made.model.language_model.layers[0].register_forward_pre_hook(lambda m, a: caught.update(rows=a[0][0])),
        made.model.multi_modal_projector.register_forward_pre_hook(
            lambda m, a: caught.update(tower=a[0].flatten(0, 1))
        ),
    ]
    with torch.no_grad():
        made(**batch, use_cache=False)
    for handle in handles:
        handle.remove()
    return np.array(caught["rows"].double().tolist()), np.array(caught["tower"].double().tolist())


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_document_covers_words_and_picture(number: int) -> None:
    """A ninth of the tokens of every picture; the words are all rows after the last one."""
    document = Policy.from_source(read(catalog.find("policies", "mmtok")), RegisteredParts())
    batch = inputs(model(), SAMPLES)
    alone = single(batch, SAMPLES, number)
    ids = alone["input_ids"][0].tolist()
    visual = [c for c, i in enumerate(ids) if i == IMAGE]
    rows, tower = seen(alone)
    words = rows[visual[-1] + 1 :]
    pictures = len(SAMPLES[number].images)
    expected = []
    for i in range(pictures):
        own = visual[36 * i : 36 * i + 36]
        chosen = mmtok(words, rows[own], tower[36 * i : 36 * i + 36], 4)
        expected += [36 * i + c for c in sorted(chosen)]
    resolved = resolve(document, geometry_of(model().config.to_dict()), RegisteredParts())
    for given, place in ((alone, 0), (batch, number)):
        with Session(model(), resolved) as session, torch.no_grad():
            model()(**given)
            assert session.run.kept(0, place) == expected
