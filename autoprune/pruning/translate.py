"""Keyword arguments of a decoder layer, from logical to physical coordinates.

The library hands every layer the same full-length mask, rotary embeddings and position ids; each is gathered from the
model's own, so causal, padded, sliding and bidirectional patterns all stay exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autoprune.pruning.layout import Layout
from autoprune.pruning.tensors import take

if TYPE_CHECKING:
    from torch import Tensor

Rotary = Callable[["Tensor", "Tensor"], Any]


@dataclass(eq=False)
class Translator:
    """Translates for one layout and remembers, because consecutive layers receive the same objects."""

    layout: Layout
    implementation: str
    rotary: Rotary
    memo: dict[tuple[str, int], tuple[Any, Any]] = field(default_factory=dict)

    def prefill(self, kwargs: dict[str, Any], hidden: Tensor) -> dict[str, Any]:
        """kwargs of a layer whose hidden states [B, n, D] are already physical."""
        out = dict(kwargs)
        mask, rotary, ids = (kwargs.get(k) for k in ("attention_mask", "position_embeddings", "position_ids"))
        out["attention_mask"] = self._once("mask", mask, lambda: prefill_mask(mask, self.layout, self.flash, hidden))
        if rotary is not None:
            out["position_embeddings"] = self._once("rotary", rotary, lambda: self._rotary(rotary, hidden))
        if ids is not None:
            # Under FlashAttention gapped ids of a batch of one read as packed sequences; rotary embeddings are enough.
            out["position_ids"] = None if self.flash else self._once("ids", ids, lambda: self._ids(ids))
        return out

    @property
    def flash(self) -> bool:
        return "flash" in self.implementation

    def _rotary(self, rotary: Any, hidden: Tensor) -> Any:
        if self.layout.positions is not None:
            return self.rotary(hidden, self.layout.positions)
        return tuple(take(t, self.layout.index, -2) for t in rotary)

    def _ids(self, ids: Tensor) -> Tensor:
        return take(ids, self.layout.index, -1) if self.layout.positions is None else self.layout.positions

    def _once(self, name: str, source: Any, make: Callable[[], Any]) -> Any:
        key = (name, id(source))
        if key not in self.memo:
            self.memo[key] = (make(), source)  # holding the source keeps its id unique
        return self.memo[key][0]


def added(hidden: Tensor, layout: Layout, visual: Tensor, features: Tensor) -> Tensor:
    """hidden [B, n, D] plus features [sum of visual, D] that belong to the logical columns of visual [B, S]."""
    logical = features.new_zeros(*visual.shape, features.shape[-1]).masked_scatter(visual[..., None], features)
    physical = take(logical, layout.index, 1)
    return hidden + (physical if layout.valid is None else physical * layout.valid[..., None])


def prefill_mask(mask: Tensor | None, layout: Layout, flash: bool, hidden: Tensor) -> Tensor | None:
    """Rows and columns of the layout. None stays None where nothing is ragged (SDPA's causal fast path)."""
    made = _prefill_mask(mask, layout, flash, hidden)
    if layout.bias is None:
        return made
    return with_bias(_causal(layout.width, layout.width, hidden) if made is None else made, layout.bias, hidden)


def _prefill_mask(mask: Tensor | None, layout: Layout, flash: bool, hidden: Tensor) -> Tensor | None:
    valid = layout.valid
    if mask is None:
        if valid is None or flash:
            return valid
        causal = _causal(layout.width, layout.width, hidden)
        return _closed(causal.expand(valid.shape[0], -1, -1, -1), valid)
    if mask.ndim == 2:
        columns = take(mask.bool(), layout.index, 1)
        return columns if valid is None else columns & valid
    gathered = take(take(mask, layout.index, 3), layout.index, 2)
    return gathered if valid is None else _closed(gathered, valid)


def _causal(queries: int, columns: int, like: Tensor) -> Tensor:
    """[1, 1, queries, columns] bool; the last query sees every column."""
    import torch

    seen = torch.ones(queries, columns, dtype=torch.bool, device=like.device)
    return seen.tril(columns - queries)[None, None]


def with_bias(mask: Tensor, bias: Tensor, hidden: Tensor) -> Tensor:
    """A bool or additive mask [B or 1, 1, Q, n] as an additive one in the dtype of `hidden`, with bias [B, n] on top of
    what it lets through."""
    import torch

    low = torch.finfo(hidden.dtype).min
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    added = bias[:, None, None, :].to(hidden.dtype)
    additive = added if mask.dtype == torch.bool else mask.to(hidden.dtype) + added
    return additive.expand(len(bias), *mask.shape[1:]).masked_fill(~seen, low)


def _closed(mask: Tensor, valid: Tensor) -> Tensor:
    """Hide invalid columns; let an invalid row see itself, so that no row is empty and no NaN arises in any kernel."""
    import torch

    hidden_columns = ~valid[:, None, None, :]
    itself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device) & hidden_columns
    if mask.dtype == torch.bool:
        return (mask & ~hidden_columns) | itself
    low = torch.finfo(mask.dtype).min
    return mask.masked_fill(hidden_columns, low).masked_fill(itself, 0)


def decode_mask(mask: Tensor | None, layout: Layout, flash: bool, stored: int, hidden: Tensor) -> Tensor | None:
    """The logical mask of a decode step for a layer that will hold `stored` columns, those of hidden [B, Q, D] too."""
    made = _decode_mask(mask, layout, flash, stored, hidden)
    if layout.bias is None:
        return made
    bias = layout.bias.new_zeros(len(layout.bias), stored)
    bias[:, : layout.width] = layout.bias
    return with_bias(_causal(hidden.shape[1], stored, hidden) if made is None else made, bias, hidden)


def _decode_mask(mask: Tensor | None, layout: Layout, flash: bool, stored: int, hidden: Tensor) -> Tensor | None:
    import torch

    batch, width = layout.index.shape
    grown = stored - width
    valid = layout.valid
    if valid is not None:
        valid = torch.cat([valid, valid.new_ones(batch, grown)], 1)
    if mask is None:
        if valid is None or flash:
            return valid
        return _causal(hidden.shape[1], stored, hidden) & valid[:, None, None, :]
    new = layout.logical + torch.arange(grown, device=layout.index.device).expand(batch, grown)
    columns = torch.cat([layout.index, new], 1)
    if mask.ndim == 2:
        seen = take(mask.bool(), columns, 1)
        return seen if valid is None else seen & valid
    seen = take(mask, columns, 3)
    if valid is None:
        return seen
    if seen.dtype == torch.bool:
        return seen & valid[:, None, None, :]
    return seen.masked_fill(~valid[:, None, None, :], torch.finfo(seen.dtype).min)
