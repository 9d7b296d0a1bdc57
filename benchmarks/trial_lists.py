"""The lists of trials whose throughput is measured: what searches of three kinds ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from autoprune.api.proposals import PARTS, candidate
from autoprune.policy.document import Policy
from autoprune.policy.geometry import Geometry
from benchmarks.policies import sampled_entries

Stage = dict[str, Any]
Measure = Callable[[str], float]
LADDER = (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)  # sixteenths of the tokens that a greedy probe keeps


def before_the_model(geometry: Geometry, count: int, seed: int) -> list[str]:
    """Samples of the shipped space `mixed`: a stage before the language model, with any selector and merger, and two
    inside."""
    found = sampled_entries("mixed", count, geometry, _tokens(geometry), seed)
    return [entry.canonical for entry in found]


def from_a_quarter(geometry: Geometry, count: int, seed: int) -> list[str]:
    """Two stages by attention, the first between a quarter and half of the depth, the second deeper; drawn evenly."""
    rng, made = np.random.default_rng(seed), dict[str, None]()
    while len(made) < count:
        first = int(rng.integers(geometry.depth // 4, geometry.depth // 2 + 1))
        second = int(rng.integers(first + 1, geometry.depth))
        reader = ("last", "text")[int(rng.integers(2))]
        score = {"llm_attention": {"layer": "prev", "from": reader}}
        keeps = [round(float(rng.uniform(*ends)), 3) for ends in ((0.2, 0.8), (0.1, 0.7))]
        stages: list[Stage] = [
            {"at": f"llm:{first}", "keep": keeps[0], "score": score},
            {"at": f"llm:{second}", "keep": {"of_current": keeps[1]}, "score": score},
        ]
        made[canonical(geometry, stages)] = None
    return list(made)


def greedy_probes(geometry: Geometry, loss: Measure, tolerance: float) -> list[str]:
    """Every policy that a greedy search asks for: from a quarter of the depth on, at each layer the fewest sixteenths
    whose `loss` stays within `tolerance` of the unpruned model's (a factor), found by bisection; those before stay."""
    score, asked = {"llm_attention": {"layer": 1, "from": "text"}}, list[str]()
    bound, decided, most = loss("") * tolerance, list[Stage](), len(LADDER)
    for layer in range(geometry.depth // 4, geometry.depth):
        low, high = 0, most
        while low < high:
            middle = (low + high) // 2
            stage = {"at": f"llm:{layer}", "keep": f"{LADDER[middle]}/16", "score": score}
            asked.append(canonical(geometry, [*decided, stage]))
            low, high = (low, middle) if loss(asked[-1]) <= bound else (middle + 1, high)
        if high < most:
            decided.append({"at": f"llm:{layer}", "keep": f"{LADDER[high]}/16", "score": score})
            most = high
    return asked


def canonical(geometry: Geometry, stages: Sequence[Stage]) -> str:
    document = {"schema": "autoprune/policy/1", "name": "trial", "stages": list(stages)}
    return candidate(Policy.parse(document, PARTS), geometry, _tokens(geometry)).canonical


def _tokens(geometry: Geometry) -> int:
    if geometry.tokens_per_image is None:
        raise ValueError("this benchmark wants a model whose images all have the same number of tokens")
    return geometry.tokens_per_image
