"""Scores and sets read from the similarity of tokens to each other or to text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from oracles.basics import Array, cosine, cosines, mean, mean_vector, norm, ranking, softmax


def g_prune(features: Array, threshold: float = 0.5, temperature: float = 0.03, hops: int = 5) -> list[float]:
    """G-Prune, sheet C5: cosine graph, edges < 0.5 removed (self loop stays), row softmax of sim / 0.03, signal = L2
    norm, 5 hops of signal <- signal A, divided by degree.

    Decided: degree = number of remaining edges of the token, self loop counted, so never 0.
    """
    n = len(features)
    sim = cosines(features)
    edge = [[i == j or sim[i][j] >= threshold for j in range(n)] for i in range(n)]
    rows = []
    for i in range(n):
        rows.append(softmax([sim[i][j] / temperature if edge[i][j] else -math.inf for j in range(n)]))
    signal = [norm(x) for x in features]
    for _ in range(hops):
        signal = [sum(signal[i] * rows[i][j] for i in range(n)) for j in range(n)]
    return [signal[i] / sum(edge[i]) for i in range(n)]


def greedyprune_saliency(visual: Array, last_text: Array) -> list[float]:
    """GreedyPrune, sheet C6: cos(visual token, LAST text token), hidden (or value) states at the pruning layer."""
    return [cosine(v, last_text) for v in visual]


def unit(similarity: float) -> float:
    """A cosine onto [0,1]. Decided: (1 + cos) / 2, which needs no other token (CATP's sheet only says "rescaled")."""
    return (1 + similarity) / 2


def catp_objective(features: Array, text: Array, chosen: Sequence[int], weight: float = 0.7) -> float:
    """CATP, sheet C8 stage 1: sum_x max_{y in Y} sim(x,y) + 0.7 sum_{y in Y} sim(y, mean text). Y empty: 0."""
    alike = [[unit(cosine(x, y)) for y in features] for x in features]
    about = mean_vector(text)
    return covered(alike, [unit(cosine(y, about)) for y in features], chosen, weight)


def covered(alike: list[list[float]], asked: list[float], chosen: Sequence[int], weight: float) -> float:
    """The objective from the likenesses of tokens to each other and to the text."""
    if not chosen:
        return 0.0
    return sum(max(row[y] for y in chosen) for row in alike) + weight * sum(asked[y] for y in chosen)


def catp_stage_1(features: Array, text: Array, k: int, weight: float = 0.7) -> list[int]:
    """CATP, sheet C8 stage 1: per image, greedily the token that raises the objective most. Returns picks in order.

    features [N,d] of one image; text [T,d] of its pair. Decided: x runs over all tokens, chosen ones too. Equal gains
    (to 1e-12) go to the lower index.
    """
    alike = [[unit(cosine(x, y)) for y in features] for x in features]
    about = mean_vector(text)
    asked = [unit(cosine(y, about)) for y in features]
    chosen: list[int] = []
    while len(chosen) < k:
        best, gain = -1, -math.inf
        for i in range(len(features)):
            value = covered(alike, asked, [*chosen, i], weight)
            if i not in chosen and value > gain + 1e-12:
                best, gain = i, value
        chosen.append(best)
    return chosen


def saint_redundancy(keys: Array, alive: Sequence[int]) -> list[float]:
    """SAINT ViT mode, sheet B14: the summed cosine of each survivor to the OTHER survivors. keys [N,d]: head means."""
    return [sum(cosine(keys[i], keys[j]) for j in alive if j != i) for i in alive]


def saint_vit(keys: Array, k: int, step: int | None = None) -> list[int]:
    """SAINT ViT mode, sheet B14: drop the most redundant until k are left. Returns survivors in raster order.

    Decided: the step meant, max(1, floor(N / 16)), not the release's alternating one; of equals the lower index drops.
    """
    size = max(1, len(keys) // 16) if step is None else step
    alive = list(range(len(keys)))
    while len(alive) > k:
        order = ranking(saint_redundancy(keys, alive))
        gone = {alive[p] for p in order[: min(size, len(alive) - k)]}
        alive = [i for i in alive if i not in gone]
    return alive


def saint_lm(keys: Array, threshold: float = 0.83, neighbours: int = 5, sharpness: float = 10.0) -> list[float]:
    """SAINT LM mode, sheet B14: an even token with >= 5 odd neighbours of cosine >= 0.83 has redundancy
    count * exp(10 (mean sim over valid - 0.83)); every other token has 0.

    Decided: "valid" are those neighbours (cosine >= threshold), so the mean is over them.
    """
    scores = [0.0] * len(keys)
    for i in range(0, len(keys), 2):
        found = [cosine(keys[i], keys[j]) for j in range(1, len(keys), 2)]
        valid = [s for s in found if s >= threshold]
        if valid and len(valid) >= neighbours:
            scores[i] = len(valid) * math.exp(sharpness * (mean(valid) - threshold))
    return scores
