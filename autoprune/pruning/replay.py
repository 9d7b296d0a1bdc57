"""One forward that goes on where another one of the same batch stood, and leaves snapshots to later ones.

The model's own forward runs, masks, rotary embeddings and all; only the decoder layers before the snapshot hand on what
they are given, and the layer it was taken at is handed the stored hidden states instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autoprune.pruning.facts import SeenImages
from autoprune.pruning.snapshot import Snapshot, snapshot

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.prefill import Prefill


@dataclass(eq=False)
class Replay:
    """`start`: where to go on (None: from the beginning). `images`: features computed earlier. `wanted`: the layers at
    whose entry a snapshot is `taken`. `rows`: how many of the last columns anybody looks at after the last layer (None:
    all). `seen`: the images as this forward left them."""

    start: Snapshot | None = None
    images: SeenImages | None = None
    wanted: frozenset[int] = frozenset()
    rows: int | None = None
    taken: list[Snapshot] = field(default_factory=list)
    seen: SeenImages | None = None

    @property
    def first(self) -> int:
        """The first decoder layer that runs."""
        return 0 if self.start is None else self.start.layer

    def enter(self, prefill: Prefill, number: int, hidden: Tensor) -> Tensor:
        """What layer `number` begins with in place of `hidden`."""
        if self.start is not None and number == self.start.layer:
            hidden = self.start.hidden
        if number in self.wanted:
            self.taken.append(snapshot(prefill, number, hidden))
        return hidden


@contextmanager
def shortened(layers: Sequence[Any], replay: Replay) -> Iterator[None]:
    """Layers that do only what a replay needs of them; the layers are restored bit for bit."""
    with ExitStack() as undo:
        for layer in layers[: replay.first]:
            undo.enter_context(_replaced(layer, _handed_on))
        mlp = getattr(layers[-1], "mlp", None)
        if replay.rows is not None and mlp is not None and _row_wise(mlp):
            undo.enter_context(_replaced(mlp, _last_rows(mlp.forward, replay.rows)))
        yield


def _handed_on(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden


def _last_rows(original: Callable[[Tensor], Tensor], rows: int) -> Callable[[Tensor], Tensor]:
    """The same for the last rows of [B, n, D]; zero for the others."""
    from torch.nn.functional import pad

    def forward(hidden: Tensor) -> Tensor:
        made = original(hidden[:, -rows:])
        return pad(made, (0, 0, hidden.shape[1] - made.shape[1], 0))

    return forward


def _row_wise(module: Any) -> bool:
    """Whether each row of the output depends on that row of the input alone, as far as can be told: nothing but linear
    layers and what has no parameters (a mixture of experts is neither)."""
    import torch

    return all(type(part) is torch.nn.Linear or not list(part.parameters()) for part in module.children())


@contextmanager
def _replaced(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
