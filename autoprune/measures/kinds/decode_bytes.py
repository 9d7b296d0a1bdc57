"""How much cache does every answer token read?"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from autoprune.measures.costs import SampleCost
from autoprune.measures.registry import measure
from autoprune.pruning.parts import Config


class DecodeBytesConfig(Config):
    """`tokens`: how long the answer is assumed to be."""

    tokens: int = Field(256, ge=2, le=1_000_000)


@measure("decode_bytes", DecodeBytesConfig, direction="lower", unit="byte/token", cost=True)
def decode_bytes(samples: Sequence[SampleCost], config: DecodeBytesConfig) -> float:
    """Mean bytes of keys and values that a decode step reads, over an answer of `tokens` tokens; weights are not in it.

    The first token comes of the prefill; step j = 1, …, tokens - 1 reads the prompt's cache and j positions more in
    every layer, tokens / 2 on average.
    """
    return sum(_read(sample, config.tokens / 2) for sample in samples) / len(samples)


def _read(sample: SampleCost, more: float) -> float:
    positions = sum(visual + sample.text for visual in sample.visual)
    return sample.kv_bytes // positions * (positions + more * len(sample.visual))  # every position is equally large
