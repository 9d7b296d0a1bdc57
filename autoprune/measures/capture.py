"""The hidden states of some token rows, picked while the model runs, so that nothing else is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

Tokens = Literal["last", "answer", "text"]
State = tuple[Tokens, int]
"""Which token rows, and after how many decoder layers (at least 1)."""

Where = Callable[[State], "tuple[Tensor, Tensor]"]


@contextmanager
def captured_states(
    layers: Sequence[nn.Module], wanted: Iterable[State], where: Where
) -> Iterator[dict[State, Tensor]]:
    """Fills `{state: [R, width]}` with the rows that `where` picks of a layer's output [B, n, width]: each one's sample
    and column, [R] both, sample after sample."""
    found: dict[State, Tensor] = {}

    def keep(state: State) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            found[state] = hidden[where(state)]

        return hook

    handles = [layers[state[1] - 1].register_forward_hook(keep(state)) for state in wanted]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
