"""How many visual tokens are left, over all decoder layers?"""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.measures.costs import SampleCost
from autoprune.measures.registry import measure
from autoprune.pruning.parts import Config


@measure("budget", direction="lower", unit="of N", bounded=(0.0, 1.0), cost=True)
def budget(samples: Sequence[SampleCost], config: Config) -> float:
    """Visual positions entering decoder layers, summed over samples and layers, relative to the unpruned model's."""
    return _share(samples)


@measure("budget_max", direction="lower", unit="of N", bounded=(0.0, 1.0), cost=True)
def budget_max(samples: Sequence[SampleCost], config: Config) -> float:
    """The budget of the sample that keeps the largest part of its own visual tokens."""
    return max(_share([s]) for s in samples)


def _share(samples: Sequence[SampleCost]) -> float:
    """1 where there is nothing to prune."""
    whole = sum(s.unpruned * len(s.visual) for s in samples)
    return sum(sum(s.visual) for s in samples) / whole if whole else 1.0
