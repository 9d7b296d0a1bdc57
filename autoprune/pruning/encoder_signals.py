"""What may be asked of the vision tower and the projector. Torch-free; values per visual token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Heads = Literal["mean", "max"]


@dataclass(frozen=True)
class EncoderRow:
    """CLS attention at one encoder block (0-based), reduced over heads: [V]."""

    block: int
    heads: Heads


@dataclass(frozen=True)
class EncoderFeatures:
    """Rows that enter the projector: [V, Dv]. Newlines are zero."""


@dataclass(frozen=True)
class Pixels:
    """An integer hash of the token's image: [V]."""


EncoderSignal = EncoderRow | EncoderFeatures | Pixels
