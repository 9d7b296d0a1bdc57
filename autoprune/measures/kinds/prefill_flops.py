"""How much arithmetic is there before the first answer token?"""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.measures.costs import SampleCost
from autoprune.measures.registry import measure
from autoprune.pruning.parts import Config


@measure("prefill_flops", direction="lower", unit="FLOP", cost=True)
def prefill_flops(samples: Sequence[SampleCost], config: Config) -> float:
    """Mean floating-point operations of a prefill: vision tower, projector, decoder layers at their real lengths.

    The arithmetic of choosing tokens is `selection_flops`.
    """
    return sum(s.prefill_flops for s in samples) / len(samples)
