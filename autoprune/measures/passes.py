"""One teacher-forced pass over a batch, with or without pruning: everything that model measures look at.

Answers are the last columns of every left-padded row and pruning drops visual columns only, so counted from the right
end the answer positions and the last prompt token are where they were: physical coordinates need no translation there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.calibration.batches import Batch, batches
from autoprune.calibration.encoding import Row
from autoprune.measures.capture import State, Tokens, Where, captured_states
from autoprune.measures.loading import Loaded
from autoprune.models.family import ImageLayout
from autoprune.pruning.refuse import multi_axis

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Trace:
    """`logits` [T, V] and `states[tokens, l]` [R, width] in the model's dtype, rows as in the batch; `rows[tokens]` [R]
    says which sample each of the latter belongs to."""

    logits: Tensor
    states: dict[State, Tensor]
    rows: dict[Tokens, Tensor]


def run(
    loaded: Loaded,
    batch: Batch,
    wanted: Iterable[State],
    session: Any = None,
    known: Mapping[State, Tensor] | None = None,
) -> Trace:
    """The batch through the model; `session` is the pruning session whose hooks are attached, or None. `known`: states
    of layers that do not run, because the session replays."""
    known = known or {}
    places, wanted = loaded.family.places(loaded.model), tuple(wanted)
    forced = session.teacher_forced(batch.answer_start) if session is not None else nullcontext()
    where = _where(loaded, batch, session)
    with forced, captured_states(places.layers, [s for s in wanted if s not in known], where) as states:
        output = loaded.model(**batch.inputs, **positions(loaded, batch), use_cache=False, logits_to_keep=batch.scored)
    rows = {state[0]: where(state)[0] for state in wanted}
    return Trace(output.logits[batch.owners, batch.columns], {**known, **states}, rows)


def _where(loaded: Loaded, batch: Batch, session: Any) -> Where:
    """Sample and physical column of every row of a state. Answers and the last prompt token are counted from the right;
    text ahead of an image has moved, so the layout at the layer says where it is."""
    import torch

    samples = torch.arange(batch.size, device=batch.owners.device)
    logical = _text(loaded, batch)

    def where(state: State) -> tuple[Tensor, Tensor]:
        tokens, layer = state
        if tokens == "last":
            return samples, batch.last_prompt
        if tokens == "answer":
            return batch.owners, batch.columns
        text = logical
        if session is not None:
            index, valid = session.run.index(layer - 1)
            text = logical.gather(1, index)
            text = text if valid is None else text & valid
        found = text.nonzero(as_tuple=True)
        return found[0], found[1]

    return where


def _text(loaded: Loaded, batch: Batch) -> Tensor:
    """[B, S]: prompt tokens that are no image placeholders."""
    import torch

    ids = batch.inputs["input_ids"]
    asked = torch.arange(ids.shape[1], device=ids.device) < batch.answer_start[:, None]
    return asked & (ids != loaded.image_token) & batch.inputs["attention_mask"].bool()


def readout(loaded: Loaded) -> Callable[[Tensor], Tensor]:
    """Hidden states [R, width] of any layer -> logits [R, V] as after the last one, float32 ("logit lens")."""
    norm: Any = loaded.family.places(loaded.model).language_model.norm
    head = loaded.model.get_output_embeddings()
    return lambda hidden: head(norm(hidden)).float()


def positions(loaded: Loaded, batch: Batch) -> dict[str, Tensor]:
    """Positions from each row's first token, as `generate` counts them: what a forward pass left alone counts from the
    padding. Attention does not notice, but norms of rotated keys do. Empty where the model counts them itself (M-RoPE).
    """
    if multi_axis(loaded.family.places(loaded.model).language_model):
        return {}
    return {"position_ids": (batch.inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)}


def own_answers(loaded: Loaded, rows: Sequence[Row], size: int, max_new_tokens: int) -> list[tuple[int, ...]]:
    """The unpruned model's greedy answer to every row, its end token included where it came within `max_new_tokens`."""
    found: list[tuple[int, ...]] = [()] * len(rows)
    for batch in batches(rows, [()] * len(rows), size, loaded.pad, str(loaded.model.device)):
        made = loaded.model.generate(
            **batch.inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=list(loaded.eos),
            pad_token_id=loaded.pad,
        )
        width = batch.inputs["input_ids"].shape[1]
        for index, tokens in zip(batch.indices, made[:, width:].tolist(), strict=True):
            found[index] = _until_end(tokens, loaded.eos)
    return found


def count_newlines(loaded: Loaded, row: Row) -> int:
    """Separators among the visual positions of a row, as the family reports them when its images are encoded."""
    import torch

    places = loaded.family.places(loaded.model)
    seen: list[ImageLayout] = []
    undo = loaded.family.watch(places, seen.extend)
    base: Any = places.base
    device = str(loaded.model.device)
    try:
        with torch.inference_mode():
            base.get_image_features(**{name: value.to(device) for name, value in row.vision.items()})
    finally:
        undo()
    return sum(layout.newlines for layout in seen)


def _until_end(tokens: Sequence[int], ends: Sequence[int]) -> tuple[int, ...]:
    stop = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tuple(tokens[:stop])
