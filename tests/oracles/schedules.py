"""Schedules: the share of visual tokens that each layer of the language model sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from oracles.basics import Array, mean


def pyramid_drop(total: int, depth: int, stages: Sequence[int], ratio: float = 0.5) -> list[int]:
    """PyramidDrop, sheet A3: before stage s = 1, 2, ... the count falls to ratio^s of the ORIGINAL count.

    Returns the count that each layer runs with. Decided: floor.
    """
    return [math.floor(total * ratio ** sum(at <= layer for at in stages)) for layer in range(depth)]


def aim(depth: int = 28, first: int = 14, last: int = 22, shift: int = 1) -> list[float]:
    """AIM, sheet D6 and the video sheet: 1, then 1 - 0.125 (l - 13) for l = 14..21, then 0; in general
    1 - (l - first + 1) / (last - first).

    Decided: shift = 1, as the rate of layer l holds for the NEXT layer (video sheet); 0 reads it as layer l's own.
    """
    rates = []
    for layer in range(depth):
        at = layer - shift
        rates.append(min(1.0, max(0.0, 1 - (at - first + 1) / (last - first))))
    return rates


def solve(average: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The x in [low, high] where a never falling function reaches the target, by 200 halvings."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if average(middle) < target else (low, middle)
    return (low + high) / 2


def logistic(z: float) -> float:
    """1 / (1 + exp(z)), safe for large z."""
    return math.exp(-z) / (1 + math.exp(-z)) if z > 0 else 1 / (1 + math.exp(z))


def p_sigmoid(layers: Sequence[int], low: float, high: float, mid: float, slope: float) -> list[float]:
    """P-Sigmoid, sheet D9: a falling sigmoid over layers, low + (high - low) / (1 + exp(slope (x - mid))).

    Decided: the sheet has no formula (confidence L); this one is the design's, x = (l - l1) / (l2 - l1).
    """
    first, final = layers[0], layers[-1]
    places = [(layer - first) / (final - first) if final > first else 0.0 for layer in layers]
    return [low + (high - low) * logistic(slope * (x - mid)) for x in places]


def p_sigmoid_to_budget(layers: Sequence[int], low: float, high: float, slope: float, budget: float) -> list[float]:
    """P-Sigmoid, sheet D9: "the budget fixes one degree of freedom". Decided: `mid`, so that the mean over the layers
    passed in is the budget (low < budget < high, slope > 0)."""
    reach = 1 + 60 / slope
    mid = solve(lambda m: mean(p_sigmoid(layers, low, high, m, slope)), budget, -reach, 1 + reach)
    return p_sigmoid(layers, low, high, mid, slope)


def mutual_information(block: Array) -> float:
    """Mutual information (nats) of the joint distribution that a text x visual attention block is, scaled to sum 1.

    AutoPrune (NeurIPS 2025). Decided: the sheets name only "MI"; this is the textbook definition on the head-mean
    block, sum p log(p / (p_text p_visual)), with 0 log 0 = 0.
    """
    total = sum(float(v) for row in block for v in row)
    by_text = [sum(float(v) for v in row) / total for row in block]
    by_visual = [sum(float(row[j]) for row in block) / total for j in range(block.shape[1])]
    found = 0.0
    for t, row in enumerate(block):
        for j, v in enumerate(row):
            p = float(v) / total
            if p > 0:
                found += p * math.log(p / (by_text[t] * by_visual[j]))
    return found


def autoprune25(depth: int, information: float, x0: float, k0: float, gamma: float, target: float) -> list[float]:
    """AutoPrune (NeurIPS 2025), peers' table: logistic curve, slope = max(k0 - gamma MI, 0), rescaled to the budget.

    keep(l) = min(1, c / (1 + exp(slope (l - x0)))), c such that the mean over layers is the target.
    Decided: l and x0 are layer numbers, 0..depth-1; rescaling is one factor, cut at 1; natural logarithm in MI.
    """
    slope = max(k0 - gamma * information, 0.0)
    shape = [logistic(slope * (layer - x0)) for layer in range(depth)]

    def scaled(log_factor: float) -> list[float]:
        return [min(1.0, math.exp(min(700.0, log_factor + math.log(max(s, 1e-300))))) for s in shape]

    factor = solve(lambda c: mean(scaled(c)), target, -50.0, 700.0)
    return scaled(factor)
