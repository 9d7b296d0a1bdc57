"""What every oracle needs: softmax, cosine, ranking with ties to the lower index. Loops only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(values: Sequence[float]) -> list[float]:
    """exp(v) / sum of exp(v), shifted by the maximum. An entry of -inf gets 0."""
    highest = max(values)
    powers = [math.exp(v - highest) for v in values]
    total = sum(powers)
    return [p / total for p in powers]


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True)))


def norm(a: Iterable[float], p: int = 2) -> float:
    """L1 (p=1) or L2 (p=2) length of one vector."""
    values = [abs(float(x)) for x in a]
    return sum(values) if p == 1 else math.sqrt(sum(v * v for v in values))


def cosine(a: Sequence[float] | Array, b: Sequence[float] | Array) -> float:
    """Cosine of two vectors. Decided: 0 if one of them is the zero vector."""
    length = norm(a) * norm(b)
    return dot(a, b) / length if length > 0 else 0.0


def cosines(x: Array) -> list[list[float]]:
    """[N,N] cosines of every pair of rows."""
    return [[cosine(a, b) for b in x] for a in x]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def mean_vector(rows: Iterable[Array]) -> Array:
    """Plain mean of some vectors."""
    stack = list(rows)
    total = np.zeros_like(stack[0], dtype=np.float64)
    for row in stack:
        total = total + row
    return total / len(stack)


def ranking(scores: Sequence[float]) -> list[int]:
    """Indices from the highest score to the lowest; equal scores by index."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def top(scores: Sequence[float], k: int) -> list[int]:
    """The k highest, in raster order; ties to the lower index."""
    return sorted(ranking(scores)[:k])


def min_max(values: Sequence[float]) -> list[float]:
    """Onto [0,1]. Decided: all 0 where every value is the same."""
    low, high = min(values), max(values)
    return [(v - low) / (high - low) if high > low else 0.0 for v in values]
