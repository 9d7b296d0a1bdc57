"""Negative controls: the naive ways to prune are visibly wrong, so the equivalence tests can see such mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pruning_support import MaskedReference, Sample, difference, generate, inputs, model, policy, stage
from transformers.cache_utils import DynamicLayer
from transformers.modeling_flash_attention_utils import _is_packed_sequence

from autoprune.pruning import session as session_module
from autoprune.pruning.layout import Layout
from autoprune.pruning.session import Session
from autoprune.pruning.translate import Translator

INPUT = policy(stage(0, "1/2", "encoder_attention"))


def test_t1_a_plain_cache_is_wrong_for_ragged_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Physical lengths in the cache: masks and decode steps line up with the wrong columns, silently."""
    made = model("llava_next")
    batch = inputs(made, [Sample(9), Sample(15, ((96, 96),))])
    with Session(made, INPUT) as session:
        right = generate(made, batch, 6)
    with MaskedReference(made, session.run):
        reference = generate(made, batch, 6)
    assert difference(right, reference) <= 1e-5

    def plain(cache: Any, depth: int) -> None:
        cache.layers = [DynamicLayer() for _ in range(depth)]
        cache.layer_class_to_replicate = None

    monkeypatch.setattr(session_module, "adopt", plain)
    with Session(made, INPUT):
        naive = generate(made, batch, 6)
    assert difference(naive, reference) > 1e-3


def test_t2_gapped_position_ids_without_a_cache_are_read_as_packed_sequences() -> None:
    """Editing inputs_embeds and position_ids before the language model looks right and is not."""
    made = model()
    batch = inputs(made, [Sample(9)])
    with Session(made, INPUT) as session, torch.no_grad():
        right = made(**batch, use_cache=False).logits
    columns = session.run.index(0)[0]
    with torch.no_grad():
        embeds = made.get_input_embeddings()(batch["input_ids"])
        features = torch.cat(made.model.get_image_features(batch["pixel_values"], return_dict=True).pooler_output)
        embeds = embeds.masked_scatter((batch["input_ids"] == 5)[..., None], features)
        kept = embeds[:, columns[0]]
        run = made.model.language_model
        cached = made.lm_head(run(inputs_embeds=kept, position_ids=columns, use_cache=True).last_hidden_state)
        naive = made.lm_head(run(inputs_embeds=kept, position_ids=columns, use_cache=False).last_hidden_state)
    assert float((cached - right).abs().max()) <= 1e-5
    assert float((naive - right).abs().max()) > 1e-3


def test_t3_flash_attention_would_take_gaps_for_packing_so_it_gets_no_ids() -> None:
    gapped = torch.tensor([[0, 1, 2, 7, 8, 9]])
    assert _is_packed_sequence(gapped, 1)
    assert not _is_packed_sequence(torch.arange(6)[None], 1)
    layout = Layout(gapped, None, 10)
    hidden = torch.zeros(1, 6, 4)
    rotary = (torch.randn(1, 10, 4), torch.randn(1, 10, 4))
    given = {"attention_mask": None, "position_ids": torch.arange(10)[None], "position_embeddings": rotary}
    flash = Translator(layout, "flash_attention_2", lambda h, p: None).prefill(given, hidden)
    assert flash["position_ids"] is None
    assert flash["attention_mask"] is None
    assert torch.equal(flash["position_embeddings"][0], rotary[0][:, gapped[0]])
    plain = Translator(layout, "sdpa", lambda h, p: None).prefill(given, hidden)
    assert torch.equal(plain["position_ids"], gapped)


def test_ragged_flash_masks_are_two_dimensional() -> None:
    layout = Layout(torch.tensor([[0, 1, 3], [0, 2, 3]]), torch.tensor([[True] * 3, [False, True, True]]), 4)
    hidden = torch.zeros(2, 3, 4)
    padded = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    translator = Translator(layout, "flash_attention_2", lambda h, p: None)
    for mask in (None, padded):
        found = translator.prefill({"attention_mask": mask}, hidden)["attention_mask"]
        assert found.tolist() == [[True, True, True], [False, True, True]]
