"""How long does it take until the first answer token?"""

from __future__ import annotations

from pydantic import Field

from autoprune.measures.registry import Stopwatch, measure
from autoprune.pruning.parts import Config


class PrefillLatencyConfig(Config):
    """`records`: how many prompts are one batch. `rounds`: how often both are timed; the median counts."""

    records: int = Field(8, ge=1, le=256)
    rounds: int = Field(7, ge=2, le=1000)


@measure("prefill_latency", PrefillLatencyConfig, direction="lower", unit="of the unpruned", timed=True)
def prefill_latency(stopwatch: Stopwatch, config: PrefillLatencyConfig) -> float:
    """Median time of a prefill over that of the unpruned one, run in turn on the same device, deciding included."""
    return stopwatch(config.records, config.rounds).value
