"""A key/value cache layer that stores the physical tokens and reports the logical length.

The library sizes masks, position ids and generate()'s bookkeeping from `get_seq_length`; reporting the unpruned length
keeps all of that right while the storage really is short.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from autoprune.errors import AutoPruneError
from autoprune.pruning.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor


class PrunedLayer(DynamicLayer):  # type: ignore[misc]
    """`layout` is the prompt's, set at prefill; None while nothing has been dropped."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layout: Layout | None = None

    def get_seq_length(self) -> int:
        """Logical length: stored tokens and dropped ones."""
        stored = self.stored_length()
        if not stored or self.layout is None:
            return stored
        return stored + self.layout.logical - self.layout.width

    def stored_length(self) -> int:
        """Physical length."""
        return int(super().get_seq_length())

    def reset(self) -> None:
        super().reset()
        self.layout = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._map(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._map(lambda t: t.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._map(lambda t: t[indices.to(t.device)])

    def _map(self, pick: Callable[[Tensor], Tensor]) -> None:
        if self.layout is not None:
            self.layout = self.layout.map(pick)


def adopt(cache: Any, depth: int) -> None:
    """Replace the layers of an empty dynamic cache in place: whoever holds the cache object keeps holding it.

    Sliding-window layers become full ones: the gathered mask does the windowing, at the price of memory.
    Raises AutoPruneError for caches that cannot be shortened.
    """
    kinds = (DynamicLayer, DynamicSlidingWindowLayer, PrunedLayer)
    if not isinstance(cache, DynamicCache) or any(type(layer) not in kinds for layer in cache.layers):
        what = type(cache).__name__
        raise AutoPruneError(f"a {what} cannot hold a pruned sequence: use the default dynamic cache with a policy")
    cache.layers = [PrunedLayer() for _ in range(depth)]
    cache.layer_class_to_replicate = None
