"""Mergers as a matrix W [outputs, tokens], the result being W x (factoring 5). Rows follow the kept tokens' order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from oracles.basics import Array, cosine, norm, ranking, softmax
from oracles.selection import best

Layer = tuple[Array, Array]


def fold(w: Array, x: Array) -> Array:
    """y_k = sum_j W_kj x_j."""
    return np.array([sum((w[r, j] * x[j] for j in range(len(x))), np.zeros(x.shape[1])) for r in range(len(w))])


def project(rows: Array, first: Layer, second: Layer) -> Array:
    """LLaVA's projector: linear, GELU (z Phi(z)), linear; each layer is (weights [out, in], bias [out])."""
    bent = rows @ first[0].T + first[1]
    bent = bent * np.vectorize(lambda z: (1 + math.erf(z / math.sqrt(2))) / 2)(bent)
    made: Array = bent @ second[0].T + second[1]
    return made


def nearest(metric: Array, targets: Sequence[int], token: int) -> int:
    """Place (in targets) of the target most similar by cosine; of equals the first."""
    return best(range(len(targets)), lambda t: cosine(metric[token], metric[targets[t]]))


def nearest_mean(metric: Array, kept: Sequence[int]) -> Array:
    """VScan "recycle", sheet B7: every dropped token joins its most similar kept one; equal weights, kept included."""
    w = np.zeros((len(kept), len(metric)))
    for j in range(len(metric)):
        w[kept.index(j) if j in kept else nearest(metric, kept, j), j] = 1.0
    for row in w:
        row /= sum(row)
    return w


def visionzip_targets(rest: Sequence[int], count: int) -> list[int]:
    """VisionZip, sheet A5: targets at a uniform stride through the remaining list.

    Decided: step = floor(R / count), at least 1, from the first (as `arange(0, R, step)[:count]`).
    """
    step = max(1, len(rest) // count)
    return list(rest[::step][:count])


def visionzip(metric: Array, rest: Sequence[int], count: int, release: bool = True) -> tuple[list[int], Array]:
    """VisionZip contextual tokens, sheet A5: every other remaining token joins its most similar target;
    output = target + mean(assigned), the target alone where none came. Returns targets and W [count, N].

    metric [N,d]: head-mean keys. release=False: the plain mean of target and assigned (its norm is not doubled).
    """
    targets = visionzip_targets(rest, count)
    groups: list[list[int]] = [[] for _ in targets]
    for j in rest:
        if j not in targets:
            groups[nearest(metric, targets, j)].append(j)
    w = np.zeros((len(targets), len(metric)))
    for t, (target, group) in enumerate(zip(targets, groups, strict=True)):
        w[t, target] = 1.0 if release else 1 / (len(group) + 1)
        for j in group:
            w[t, j] = 1 / len(group) if release else 1 / (len(group) + 1)
    return targets, w


def prumerge(keys: Array, scores: Sequence[float], kept: Sequence[int], k: int = 32, residual: bool = True) -> Array:
    """PruMerge, sheet A6: x_k + sum_{j in 32-NN(k)} a_j x_j, neighbours by key cosine among ALL other tokens, kept ones
    too; a = raw CLS scores. One more row: the sum of a_j x_j over all dropped tokens."""
    n = len(keys)
    w = np.zeros((len(kept) + residual, n))
    for r, token in enumerate(kept):
        w[r, token] = 1.0
        others = [j for j in range(n) if j != token]
        for p in ranking([cosine(keys[token], keys[j]) for j in others])[:k]:
            w[r, others[p]] = scores[others[p]]
    if residual:
        for j in range(n):
            if j not in kept:
                w[-1, j] = scores[j]
    return w


def dpc_centres(x: Array, count: int, k: int) -> list[int]:
    """DPC-kNN (video sheet, "DPC"): D = ||x_i - x_j|| / sqrt(d); p_i = exp(-mean of D^2 to the k nearest, i included);
    delta_i = least D to a denser point, for the densest the largest distance in the matrix; top `count` of p delta.

    Decided: no jitter; of equal densities the lower index is denser. Returns centres in index order.
    """
    n = len(x)
    far = [[norm(a - b) / math.sqrt(x.shape[1]) for b in x] for a in x]
    density = []
    for row in far:
        close = sorted(row)[:k]
        density.append(math.exp(-sum(v * v for v in close) / len(close)))
    place = {token: rank for rank, token in enumerate(ranking(density))}
    widest = max(max(row) for row in far)
    scores = []
    for i in range(n):
        delta = min((far[i][j] for j in range(n) if place[j] < place[i]), default=widest)
        scores.append(density[i] * delta)
    return sorted(ranking(scores)[:count])


def dpc_groups(x: Array, centres: Sequence[int]) -> list[list[int]]:
    """Every token with the nearest centre (Euclid); a centre with itself; ties to the lower centre."""
    groups: list[list[int]] = [[] for _ in centres]
    for j in range(len(x)):
        gaps = [-norm(x[j] - x[c]) for c in centres]
        groups[centres.index(j) if j in centres else best(range(len(centres)), gaps.__getitem__)].append(j)
    return groups


def sparsevlm(x: Array, scores: Sequence[float], kept: Sequence[int], share: float = 0.3, per: int = 10) -> Array:
    """SparseVLM v1 "recycle", sheet A4: of the pruned the top 30% by score; (count / 10) + 1 clusters by DPC-kNN with
    k = cluster count; plain means, appended. Returns only the appended rows, W [clusters, N].

    Decided: both counts floor; k is at most the count; nothing recycled, no rows; clusters by the centre's index.
    """
    pruned = [j for j in range(len(x)) if j not in kept]
    order = ranking([scores[j] for j in pruned])[: int(share * len(pruned))]
    chosen = sorted(pruned[p] for p in order)
    if not chosen:
        return np.zeros((0, len(x)))
    clusters = min(len(chosen) // per + 1, len(chosen))
    part = x[chosen]
    w = np.zeros((clusters, len(x)))
    for r, group in enumerate(dpc_groups(part, dpc_centres(part, clusters, clusters))):
        for p in group:
            w[r, chosen[p]] = 1 / len(group)
    return w


def cell(scores: Sequence[float], columns: int, kept: Sequence[int], m: int) -> tuple[list[int], Array]:
    """VFlowOpt "recycle", sheet B8: dropped tokens of one m x m block of the grid become one score-weighted mean, at
    the place of its best member. Returns those places and W, blocks in raster order; empty blocks give nothing.

    Decided: blocks are m tokens wide and high (recycled = N / m^2), smaller at the far edges; the plain mean where the
    scores sum to 0.
    """
    blocks: dict[tuple[int, int], list[int]] = {}
    for j in range(len(scores)):
        if j not in kept:
            blocks.setdefault((j // columns // m, j % columns // m), []).append(j)
    w = np.zeros((len(blocks), len(scores)))
    places = []
    for r, (_, members) in enumerate(sorted(blocks.items())):
        places.append(members[ranking([scores[j] for j in members])[0]])
        total = sum(scores[j] for j in members)
        for j in members:
            w[r, j] = scores[j] / total if total else 1 / len(members)
    return places, w


def tome(mass: Sequence[float], pairs: Sequence[tuple[int, int]]) -> tuple[list[int], Array, list[float]]:
    """ToMe, sheet A7: merge by size-weighted mean. Returns the survivors (raster order), W and their new sizes.

    pairs: (source, target) as `selection.tome_pairs` gives. Decided: raster order, not evens then odds.
    """
    into = dict(pairs)
    survivors = [j for j in range(len(mass)) if j not in into]
    w = np.zeros((len(survivors), len(mass)))
    for j, size in enumerate(mass):
        w[survivors.index(into.get(j, j)), j] = size
    sizes = [float(sum(row)) for row in w]
    for row, size in zip(w, sizes, strict=True):
        row /= size
    return survivors, w, sizes


def soft(metric: Array, kept: Sequence[int], temperature: float) -> Array:
    """Token Transforming, sheet B15: a row per kept token, softmax over ALL tokens of cos(kept, token) / temperature.

    Decided: cosine is the similarity (the sheet says only "similarity ... (temperature), normalised").
    """
    return np.array([softmax([cosine(metric[t], x) / temperature for x in metric]) for t in kept])


def residual(scores: Sequence[float], kept: Sequence[int]) -> Array:
    """PruMerge's and EViT's last row (sheet A6, factoring 5): the sum of a_j x_j over the dropped, scaled to sum 1.

    Decided: every row of our W sums to 1 (the release leaves it at sum a_j); the plain mean where all scores are 0.
    """
    dropped = [j for j in range(len(scores)) if j not in kept]
    total = sum(scores[j] for j in dropped)
    row = np.zeros((1, len(scores)))
    for j in dropped:
        row[0, j] = scores[j] / total if total else 1 / len(dropped)
    return row


def rows_to_one(w: Array) -> Array:
    """W with every row scaled to sum 1, as the stage uses it."""
    return np.array([row / sum(row) for row in w])


def cell_kept(scores: Sequence[float], columns: int, kept: Sequence[int], m: int) -> Array:
    """`cell` where the count is fixed: no new rows, a dropped token joins the nearest kept one of its block (squared
    distance on the grid, ties to the earlier); means by score. Tokens of a block without a kept one are lost."""
    w = np.zeros((len(kept), len(scores)))
    for j in range(len(scores)):
        row, column = divmod(j, columns)
        near: dict[int, int] = {}
        for r, t in enumerate(kept):
            y, x = divmod(t, columns)
            if (y // m, x // m) == (row // m, column // m):
                near[r] = (y - row) ** 2 + (x - column) ** 2
        if j in kept:
            w[kept.index(j), j] = scores[j]
        elif near:
            w[min(near, key=lambda r: (near[r], r)), j] = scores[j]
    return rows_to_one(w)
