"""What may be asked of the vision tower and the projector. Torch-free; values per visual token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WalkHeads = Literal["mean", "sum", "max", "rms", "top_half", "joined", "each"]
Start = Literal["cls", "all", "patches", "norm", "query"]
Over = Literal["sum", "mean", "ema", "difference"]


@dataclass(frozen=True)
class EncoderWalk:
    """Where a walk over the tower's attention ends: [V], of heads `each` [V, H]. See `pruning/walk.py`.

    `blocks` (0-based, rising): one walk in each, put together by `over`. `has_cls`: the tower's first token
    is a class token. `variance`: heads whose scores vary less or more do not count.
    """

    blocks: tuple[int, ...]
    over: Over
    start: Start
    hops: int
    gate: float | None
    heads: WalkHeads
    temperature: float
    has_cls: bool
    variance: tuple[float, float] | None = None


@dataclass(frozen=True)
class EncoderFeatures:
    """Rows that enter the projector: [V, Dv]. Newlines are zero."""


@dataclass(frozen=True)
class EncoderKeys:
    """Keys of one block of the tower, as its attention sees them: [V, w], the mean over heads, or all of them side by
    side (`joined`). Newlines are zero, a token that several patches became has the mean of theirs."""

    block: int
    heads: Literal["mean", "joined"]


@dataclass(frozen=True)
class ClassLikeness:
    """Cosine of a patch's features and the class token's as they enter a block: [V]."""

    block: int


@dataclass(frozen=True)
class Sensitivity:
    """How strongly the projector answers to a small change of its input row: [V]. See `pruning/jacobian.py`."""


@dataclass(frozen=True)
class PatchEntropy:
    """Entropy of the grey values in a token's patch, in bits: [V]. See `pruning/entropy.py`."""


@dataclass(frozen=True)
class Lattice:
    """How early the token, or its row, comes when its segment's grid is visited farthest first, in [0, 1]: [V]."""

    of: Literal["cells", "rows"] = "cells"


@dataclass(frozen=True)
class Pixels:
    """An integer hash of the token's image: [V]."""


EncoderSignal = (
    EncoderWalk | ClassLikeness | EncoderFeatures | EncoderKeys | Sensitivity | PatchEntropy | Lattice | Pixels
)
