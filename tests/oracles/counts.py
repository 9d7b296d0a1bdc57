"""Count rules: how many tokens stay, read from the sample itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

from oracles.basics import Array


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile. Decided: linear between the two neighbours at place q (n - 1) of the sorted values."""
    order = sorted(values)
    place = q * (len(order) - 1)
    low = math.floor(place)
    high = min(low + 1, len(order) - 1)
    return order[low] + (place - low) * (order[high] - order[low])


def iqr_outliers(scores: Sequence[float]) -> int:
    """PruMerge, sheet A6: the number of scores above Q3 + 1.5 IQR. Decided: strictly above; 0 is possible."""
    low, high = quantile(scores, 0.25), quantile(scores, 0.75)
    return sum(s > high + 1.5 * (high - low) for s in scores)


def outlier_factors(row: Sequence[float], k: int) -> list[float]:
    """Local outlier factors (Breunig et al. 2000) of points on a line; of equally near neighbours the earlier."""
    n = len(row)
    k = min(k, max(n - 1, 1))
    near = [sorted((j for j in range(n) if j != i), key=lambda j: (abs(row[i] - row[j]), j))[:k] for i in range(n)]
    reach = [max((abs(row[i] - row[j]) for j in near[i]), default=0.0) for i in range(n)]
    density = [1 / (sum(max(reach[j], abs(row[i] - row[j])) for j in near[i]) / k + 1e-10) for i in range(n)]
    return [sum(density[j] for j in near[i]) / k / density[i] for i in range(n)]


def lof_outliers(row: Sequence[float], k: int = 20) -> int:
    """Recoverable Compression, sheet B9: how many scores have an outlier factor above 1.5."""
    return sum(factor > 1.5 for factor in outlier_factors(row, k))


def elbow(scores: Sequence[float]) -> int:
    """CoreMatching, sheet D11: the sorted curve's point farthest from the chord between its ends sets K.

    Decided: sorted falling; places 0..n-1; the distance is absolute, so both bends count; of equals (to 1e-12 of the
    largest) the first; the elbow itself stays (K = place + 1); a straight curve (or n < 3) keeps all.
    """
    curve = sorted(scores, reverse=True)
    n = len(curve)
    if n < 3:
        return n
    run, rise = n - 1, curve[-1] - curve[0]
    length = math.hypot(run, rise)
    distance = [abs(rise * x - run * (y - curve[0])) / length for x, y in enumerate(curve)]
    highest = max(distance)
    if highest <= 1e-12 * max(1.0, abs(curve[0]), abs(curve[-1])):
        return n
    return next(x for x, d in enumerate(distance) if d >= highest * (1 - 1e-12)) + 1


def entropy_share(relevance: Sequence[float]) -> float:
    """H / log N of the relevance row, 0..1. Decided: scaled to sum 1 first (the CLS column is gone); 0 log 0 = 0."""
    total = sum(relevance)
    entropy = sum(-r / total * math.log(r / total) for r in relevance if r > 0)
    return entropy / math.log(len(relevance)) if len(relevance) > 1 else 0.0


def flowcut_drop(relevance: Sequence[float], k: int, remaining: int) -> int:
    """FlowCut, sheet B6: tokens to drop = round((N_l - K) / sqrt(R_l) (1 - (entropy(rel) / log N_l)^2)).

    remaining: R_l, blocks left to the select layer. Decided: remaining <= 0 is the final block, which leaves exactly K;
    half rounds to even; never below 0 nor past K.
    """
    over = len(relevance) - k
    if over <= 0:
        return 0
    if remaining <= 0:
        return over
    wanted = over / math.sqrt(remaining) * (1 - entropy_share(relevance) ** 2)
    return min(max(round(wanted), 0), over)


def matrix_rank(matrix: Array, tolerance: float = 1e-9) -> int:
    """Rank by elimination with the largest pivot. Decided: a pivot counts above tolerance times the first one."""
    rows = [[float(v) for v in row] for row in matrix]
    columns = len(rows[0])
    rank, scale = 0, max(abs(v) for row in rows for v in row)
    while rank < min(len(rows), columns) and scale > 0:
        size, r, c = max((abs(rows[i][j]), i, j) for i in range(rank, len(rows)) for j in range(rank, columns))
        if size <= tolerance * scale:
            break
        rows[rank], rows[r] = rows[r], rows[rank]
        for row in rows:
            row[rank], row[c] = row[c], row[rank]
        for i in range(rank + 1, len(rows)):
            factor = rows[i][rank] / rows[rank][rank]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[rank], strict=True)]
        rank += 1
    return rank


def rank_count(block: Array, scale: float = 1.0, bias: float = 0.0) -> int:
    """SparseVLM paper, sheet A4: keep count from the rank of the rater x visual block, with scale and bias.

    Decided: scale (N - rank) - bias are dropped, to the nearest whole number (half to even), and 1..N stay: scale 1 and
    bias 0 keep the rank. block: mean over heads.
    """
    n = len(block[0])
    return min(max(n - round(scale * (n - matrix_rank(block)) - bias), 1), n)
