"""How many tokens each layer keeps when a curve's shape is given and the sum over the layers is not negotiable."""

from __future__ import annotations

from collections.abc import Sequence


def retained(shape: Sequence[float], weights: Sequence[int], total: int, most: int, least: int = 1) -> tuple[int, ...]:
    """Counts of stages one after the other, count_i about c·shape_i between `least` and `most`, never rising.

    `shape`: positive and never rising. `weights`: how many layers run with each count, at least 1. The factor c and the
    rounding (by largest remainder, earlier stages first) are such that Σ weight_i · count_i is `total`, or less than
    the largest weight below it. Every count is `most` where even that is below `total`, and `least` where even that is
    above.
    """
    if sum(weights) * most <= total:
        return (most,) * len(shape)
    if sum(weights) * least >= total:
        return (least,) * len(shape)
    factor = _factor(shape, weights, total, most, least)
    exact = [_between(factor * height, most, least) for height in shape]
    counts = [int(value) for value in exact]
    left = total - sum(w * k for w, k in zip(weights, counts, strict=True))
    for i in sorted(range(len(exact)), key=lambda i: counts[i] - exact[i]):  # stable: earlier stages first
        rises = counts[i] < most and (i == 0 or counts[i] < counts[i - 1])
        if weights[i] <= left and rises:
            counts[i] += 1
            left -= weights[i]
    return tuple(counts)


def _between(value: float, most: int, least: int) -> float:
    return min(float(most), max(float(least), value))


def _factor(shape: Sequence[float], weights: Sequence[int], total: int, most: int, least: int) -> float:
    """The largest c for which Σ weight_i · (c·shape_i between least and most) stays at or below the total."""
    low, high = 0.0, most / min(shape)
    for _ in range(120):  # halvings: the factor ends as a float's neighbour
        middle = (low + high) / 2
        spent = sum(w * _between(middle * height, most, least) for w, height in zip(weights, shape, strict=True))
        low, high = (middle, high) if spent <= total else (low, middle)
    return low
