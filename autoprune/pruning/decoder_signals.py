"""What may be asked of the language model. Torch-free; values per visual token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Start = Literal["last", "text", "query", "raters", "all", "vision", "norm"]
DecoderHeads = Literal["mean", "sum", "max", "rms", "top_half", "each"]
Order = Literal["l1", "l2"]
KeyHeads = Literal["mean", "joined"]


@dataclass(frozen=True)
class ProjectedFeatures:
    """Rows that enter decoder layer 0: [V, D]."""


@dataclass(frozen=True)
class DecoderWalk:
    """Where a walk over one decoder layer's attention ends: [V], of heads `each` [V, H]. See `pruning/decoder_walk.py`.

    `own` = the stage's own layer, before the stage. `rope`: with or without the rotary embedding; `over_keys`: the keys
    that a row's softmax runs over. `over_rope`: the attention is divided by that of all-ones queries and keys. `rows`:
    how the rows of the start become one.
    """

    layer: int
    own: bool
    start: Start = "last"
    hops: int = 1
    gate: float | None = None
    symmetrise: bool = False
    heads: DecoderHeads = "mean"
    rope: bool = True
    over_keys: Literal["all", "vision"] = "all"
    temperature: float = 1.0
    over_rope: bool = False
    rows: Literal["mean", "max"] = "mean"


@dataclass(frozen=True)
class KeyNorm:
    """Norm of the keys of one decoder layer over all heads: [V]."""

    layer: int
    own: bool
    order: Order = "l2"


@dataclass(frozen=True)
class DecoderKeys:
    """Keys of one decoder layer, turned by their positions: [V, D], the mean over (key-value) heads, or all of them
    side by side."""

    layer: int
    own: bool
    heads: KeyHeads = "mean"


@dataclass(frozen=True)
class Transition:
    """How much one decoder layer's attention and MLP change a token: [V]. See `pruning/transition.py`."""

    layer: int


Share = Literal["text_to_vision", "vision_to_text"]


@dataclass(frozen=True)
class BlockStatistic:
    """One number per sample from the rows of `start` against the visual tokens, the same at every token: [V]. See
    `pruning/block.py`. `tolerance`: of the `rank`, and what is added under the logarithms of the `information`."""

    layer: int
    own: bool
    start: Literal["text", "raters", "vision"]
    kind: Literal["rank", "information"] | Share
    tolerance: float = 0.0


@dataclass(frozen=True)
class NormedStates:
    """Rows that enter the stage's layer, through the model's last norm: [V, D]."""


Tapped = DecoderWalk | KeyNorm | DecoderKeys | BlockStatistic
DecoderSignal = ProjectedFeatures | NormedStates | Tapped | Transition
