"""How much a decoder layer's modules change each token (TransPrune).

For x what enters attention or MLP (after the norm) and y what leaves it (before the residual):
(|y| / |x|) · exp(1 - cos(x, y)) / Σ exp(1 - cos), the sum over all prompt tokens; the two modules are added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

Listener = Callable[["Tensor", "Tensor"], None]


class ModuleWatch:
    """Calls `listener(before, after)` whenever a decoder layer's attention or MLP has run."""

    def __init__(self, layer: Any, listener: Listener) -> None:
        self._listener = listener
        self._handles = [
            module.register_forward_hook(self._ran, with_kwargs=True) for module in (layer.self_attn, layer.mlp)
        ]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _ran(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        self._listener(before, output[0] if isinstance(output, tuple) else output)


def transition(before: Tensor, after: Tensor, counted: Tensor) -> Tensor:
    """Values [B, n] in float32 of one module, from what enters and leaves it [B, n, D]. `counted` [B, n]: prompt."""
    x, y = before.float(), after.float()
    tiny = torch.finfo(torch.float32).tiny
    long, short = x.square().sum(-1).sqrt(), y.square().sum(-1).sqrt()
    cosine = (x * y).sum(-1) / (long * short).clamp(min=tiny)
    turned = (1 - cosine).exp().masked_fill(~counted, 0)
    return short / long.clamp(min=tiny) * turned / turned.sum(1, keepdim=True).clamp(min=tiny)
