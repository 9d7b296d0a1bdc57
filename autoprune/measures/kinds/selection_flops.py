"""How much arithmetic goes into deciding which tokens stay?"""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.measures.costs import SampleCost
from autoprune.measures.registry import measure
from autoprune.pruning.parts import Config


@measure("selection_flops", direction="lower", unit="FLOP", cost=True)
def selection_flops(samples: Sequence[SampleCost], config: Config) -> float:
    """Mean floating-point operations of scores, selection and merging, which `prefill_flops` leaves out."""
    return sum(s.selection_flops for s in samples) / len(samples)
