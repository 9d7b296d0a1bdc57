"""The hidden states of one column per sample, picked while the model runs, so that nothing else is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def captured_states(layers: Sequence[nn.Module], wanted: Iterable[int], columns: Tensor) -> Iterator[dict[int, Tensor]]:
    """Fills `{l: [B, width]}` with the state after l >= 1 decoder layers at `columns` [B], counted from the right."""
    import torch

    found: dict[int, Tensor] = {}
    rows = torch.arange(len(columns), device=columns.device)

    def keep(number: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            found[number] = hidden[rows, columns]

        return hook

    handles = [layers[number - 1].register_forward_hook(keep(number)) for number in wanted]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
