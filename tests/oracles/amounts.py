"""How many tokens stay: K of a sample, its split over groups, the largest count inside a budget (design 1 to 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from oracles.basics import mean, ranking


def keep(fraction: Fraction, n: int) -> int:
    """K = floor(f N + 1/2), at least 1 if f > 0 and there is one."""
    if fraction == 0 or n == 0:
        return 0
    return max(1, math.floor(fraction * n + Fraction(1, 2)))


def largest_remainder(
    total: int, weights: Sequence[Fraction | int | float], sizes: Sequence[int] | None = None
) -> list[int]:
    """Split `total` in proportion to the weights: floors, then one more to the largest remainders, ties to the first.

    sizes: how many a group can hold at most; what a full group cannot take is split among the others by their weights.
    Decided: a full group is closed and the rest is split again from the start, until no group is above its size;
    equal weights where all are 0.
    """
    share = [Fraction(w) for w in weights]
    room = [total] * len(share) if sizes is None else list(sizes)
    found, open_ = [0] * len(share), list(range(len(share)))
    while open_:
        left = total - sum(found[g] for g in range(len(share)) if g not in open_)
        weight = [share[g] for g in open_]
        if not sum(weight):
            weight = [Fraction(1)] * len(open_)
        exact = [left * w / sum(weight) for w in weight]
        full = [g for g, e in zip(open_, exact, strict=True) if e > room[g]]
        if full:
            for g in full:
                found[g] = room[g]
            open_ = [g for g in open_ if g not in full]
            continue
        part = [math.floor(e) for e in exact]
        for p in ranking([float(e - f) for e, f in zip(exact, part, strict=True)])[: left - sum(part)]:
            part[p] += 1
        for g, f in zip(open_, part, strict=True):
            found[g] = f
        break
    return found


def budget(n: int, depth: int, stages: Sequence[tuple[int, int]]) -> Fraction:
    """sum_l n_l / (L N): n_l = tokens entering layer l, after the stages (site, count) at or before l."""
    total = 0
    for layer in range(depth):
        count = n
        for at, kept in stages:
            if at <= layer:
                count = min(count, kept)
        total += count
    return Fraction(total, depth * n)


def to_budget(n: int, depth: int, earlier: Sequence[tuple[int, int]], at: int, target: Fraction) -> int | None:
    """The largest count for the last stage `at` that leaves the sample's budget at or below the target.

    None: already there without the stage. -1: unreachable. Decided: the stage leaves one token at least, as a fraction
    above 0 does.
    """
    if budget(n, depth, earlier) <= target:
        return None
    fitting = [k for k in range(1, n + 1) if budget(n, depth, [*earlier, (at, k)]) <= target]
    return max(fitting, default=-1)


def local_outlier_factors(values: Sequence[float], k: int) -> list[float]:
    """Recoverable Compression's LOF (sheet B9) of numbers on a line, as its inventors define it.

    k-distance: to the k-th nearest other value; reach(a, b) = max(k-distance(b), |a - b|); density = 1 / mean reach to
    the k nearest; LOF = mean density of the k nearest / own density. Decided: exactly k neighbours (ties to the lower
    index), k at most n - 1, and 1e-10 added to mean reach, as the library the release calls does.
    """
    n = len(values)
    k = min(k, n - 1)
    near, kth = [], []
    for i in range(n):
        others = sorted((abs(values[i] - values[j]), j) for j in range(n) if j != i)[:k]
        near.append([j for _, j in others])
        kth.append(others[-1][0])
    density = []
    for i in range(n):
        density.append(1 / (mean([max(kth[j], abs(values[i] - values[j])) for j in near[i]]) + 1e-10))
    return [mean([density[j] for j in near[i]]) / density[i] for i in range(n)]


def linear(layers: Sequence[int], first: float, last: float) -> list[float]:
    """Design 2.1: a straight line over x = (l - l1) / (l2 - l1)."""
    run = layers[-1] - layers[0]
    return [first + (last - first) * ((layer - layers[0]) / run) for layer in layers]


def geometric(layers: Sequence[int], ratio: float, every: int) -> list[float]:
    """PyramidDrop (sheet A3) as a curve: one more factor `ratio` every `every` layers.

    Decided: the first layer of the span already has it (PyramidDrop's first stage stands before layer 8 = l1).
    """
    return [ratio ** ((layer - layers[0]) // every + 1) for layer in layers]
