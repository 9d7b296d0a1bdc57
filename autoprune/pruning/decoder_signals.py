"""What may be asked of the language model. Torch-free; values per visual token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autoprune.pruning.encoder_signals import Heads

Rows = Literal["last", "text"]


@dataclass(frozen=True)
class ProjectedFeatures:
    """Rows that enter decoder layer 0: [V, D]."""


@dataclass(frozen=True)
class TextRow:
    """Attention of prompt rows at one decoder layer: [V]. `own` = the stage's own layer, before the stage."""

    layer: int
    rows: Rows
    heads: Heads
    own: bool


@dataclass(frozen=True)
class KeyNorm:
    """L2 norm of the keys of one decoder layer over all heads: [V]."""

    layer: int
    own: bool


DecoderSignal = ProjectedFeatures | TextRow | KeyNorm
