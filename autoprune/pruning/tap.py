"""Attention rows and keys without `output_attentions`: one module at a time, SDPA and FlashAttention stay on.

Only the tapped module's `config` points to a shallow copy that names our attention function. The model's own config,
which decides masks and kernels, is untouched, and other layers pay nothing.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from autoprune.pruning.tensors import take

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "autoprune_tap"
Listener = Callable[["Tensor", "Tensor", float, "Tensor | None"], None]


class Abort(Exception):
    """Ends a layer's forward right after its queries and keys were seen. Never leaves the engine."""


class _Untapped:
    """The attention module as it was: FlashAttention reads its kernel's name from `module.config`."""

    def __init__(self, module: nn.Module, config: Any) -> None:
        self._module, self.config = module, config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Tap:
    """Calls `listener(query, key, scaling, mask)` before the module's real attention function.

    `packed`: the module's input is several sequences one after the other. The listener gets them one by one: either the
    module calls its attention function for each, or it hands their ends to a kernel that does it.
    """

    def __init__(self, module: Any, listener: Listener, packed: bool = False) -> None:
        self.module, self.listener, self.config, self.packed = module, listener, module.config, packed
        tapped = copy.copy(module.config)
        tapped._attn_implementation_internal = NAME
        module.config = tapped
        module._autoprune_tap = self

    def remove(self) -> None:
        self.module.config = self.config
        del self.module._autoprune_tap


def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    """The registered attention function: let the tap listen, then do what the model would have done."""
    tap: Tap = module._autoprune_tap
    scaling = kwargs.get("scaling")
    ends = kwargs.get("cu_seq_lens_q") if tap.packed else None
    for queries, keys in _sequences(query, key, ends):
        tap.listener(queries, keys, query.shape[-1] ** -0.5 if scaling is None else scaling, attention_mask)
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    real = ALL_ATTENTION_FUNCTIONS.get_interface(tap.config._attn_implementation, eager)
    return real(_Untapped(module, tap.config), query, key, value, attention_mask, **kwargs)


AttentionInterface.register(NAME, attention)


def _sequences(query: Tensor, key: Tensor, ends: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Each sequence of a packed query and key [1, H, T, D]; `ends` [n + 1] are where they end, 0 first."""
    if ends is None:
        yield query, key
        return
    for start, end in pairwise(ends.tolist()):
        yield query[:, :, start:end], key[:, :, start:end]


def attention_rows(query: Tensor, key: Tensor, rows: Tensor, scaling: float, mask: Tensor | None) -> Tensor:
    """Softmax rows [B, H, R, K] of query [B, H, S, D] against key [B, Hkv, K, D] at rows [B, R]; O(R x K) memory.

    `mask` [B or 1, 1, R, K] is bool (True = seen), additive, or None (all seen).
    """
    batch, heads, _, width = query.shape
    groups, columns = key.shape[1], key.shape[2]
    picked = take(query.transpose(1, 2), rows, 1).transpose(1, 2)
    picked = picked.reshape(batch, groups, heads // groups * rows.shape[1], width)
    scores = (picked @ key.transpose(2, 3)).float().mul(scaling).view(batch, heads, rows.shape[1], columns)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = scores + mask.float()
    return scores.softmax(-1).nan_to_num(0)


def row_mask(mask: Tensor | None, rows: Tensor, columns: int, valid: Tensor | None) -> Tensor:
    """What the chosen rows of a causal layer see, [B, 1, R, K], from the layer's real mask where it is 4D."""
    if mask is not None and mask.ndim == 4:
        return take(mask[..., :columns], rows, 2)
    seen = torch.arange(columns, device=rows.device) <= rows[..., None]
    if valid is not None:
        seen = seen & valid[:, None, :]
    return seen[:, None]
