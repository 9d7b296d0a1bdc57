"""What each decoder layer of the unpruned model does with the visual tokens: two numbers per layer and record.

Everything is reduced where it appears, a layer at a time: no states are kept. Prompts only, answers play no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.calibration.batches import Batch, batches
from autoprune.calibration.encoding import Row
from autoprune.measures.loading import Loaded
from autoprune.measures.passes import positions

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Profile:
    """Of B records and L decoder layers, float32. `similarity` [B, L]: cosine of a visual position's hidden state
    before and after the layer, the mean over the record's. `attention` [B, L]: the share of its attention that the last
    prompt token gives to visual positions there, the mean over the heads."""

    similarity: Tensor
    attention: Tensor


def profile(loaded: Loaded, rows: Sequence[Row], size: int) -> Profile:
    """The unpruned model on the prompts of these rows, at most `size` at a time. No policy may be attached."""
    import torch

    depth = loaded.geometry.depth
    found = Profile(torch.zeros(len(rows), depth), torch.zeros(len(rows), depth))
    for batch in batches(rows, [()] * len(rows), size, loaded.pad, str(loaded.model.device)):
        with _watched(loaded, batch) as made:
            loaded.model(**batch.inputs, **positions(loaded, batch), use_cache=False, logits_to_keep=1)
        places = list(batch.indices)
        found.similarity[places] = torch.stack([made["similarity", i] for i in range(depth)], 1).cpu()
        found.attention[places] = torch.stack([made["attention", i] for i in range(depth)], 1).cpu()
    return found


@contextmanager
def _watched(loaded: Loaded, batch: Batch) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Fills `{(signal, layer): [B]}` while the model runs."""
    from autoprune.pruning.tap import Tap

    ids, seen = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    visual = (ids == loaded.image_token) & seen
    found: dict[tuple[str, int], Tensor] = {}
    undo: list[Any] = []
    try:
        for number, layer in enumerate(loaded.family.places(loaded.model).layers):
            watch = _Layer(number, visual, seen, found)
            undo.append(layer.register_forward_pre_hook(watch.before, with_kwargs=True))
            undo.append(layer.register_forward_hook(watch.after))
            undo.append(Tap(layer.self_attn, watch.attends))
        yield found
    finally:
        for handle in undo:
            handle.remove()


class _Layer:
    """Listens to one decoder layer of a batch. `visual`, `seen` [B, S]: image placeholders, and all but padding."""

    def __init__(self, number: int, visual: Tensor, seen: Tensor, found: dict[tuple[str, int], Tensor]) -> None:
        self.number, self.visual, self.seen, self.found = number, visual, seen, found
        self.places = visual.nonzero(as_tuple=True)
        self.rows: Tensor | None = None

    def before(self, module: Any, args: Any, kwargs: Any) -> None:
        self.rows = (args[0] if args else kwargs["hidden_states"])[self.places]

    def after(self, module: Any, args: Any, output: Any) -> None:
        from torch.nn.functional import cosine_similarity

        rows, self.rows = self.rows, None
        if rows is None:
            raise RuntimeError("a decoder layer ended that has not begun")
        hidden = (output[0] if isinstance(output, tuple) else output)[self.places]
        alike = cosine_similarity(rows.float(), hidden.float(), dim=-1)
        total = alike.new_zeros(len(self.visual)).index_add_(0, self.places[0], alike)
        self.found["similarity", self.number] = total / self.visual.sum(1).clamp(min=1)

    def attends(self, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None) -> None:
        import torch

        from autoprune.pruning.tap import attention_rows, row_mask

        columns = key.shape[2]
        last = self.visual.new_full((len(self.visual), 1), columns - 1, dtype=torch.long)
        weights = attention_rows(query, key, last, scaling, row_mask(mask, last, columns, self.seen))[:, :, 0]
        share = weights.masked_fill(~self.visual[:, None], 0).sum(2).mean(1)
        self.found["attention", self.number] = share
