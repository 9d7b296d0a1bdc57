"""How large is the key-value cache?"""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.measures.costs import SampleCost
from autoprune.measures.registry import measure
from autoprune.pruning.parts import Config


@measure("kv_bytes", direction="lower", unit="byte", cost=True)
def kv_bytes(samples: Sequence[SampleCost], config: Config) -> float:
    """Mean bytes of keys and values after the prefill of one sample, text and visual tokens alike."""
    return sum(s.kv_bytes for s in samples) / len(samples)
