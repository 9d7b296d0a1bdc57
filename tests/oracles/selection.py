"""Selectors: which tokens stay. Each returns indices; greedy ones in the order they were picked.

Every step goes over all tokens again: no running state. Gains equal to 1e-12 go to the lower index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from oracles.basics import Array, cosine, cosines, min_max, ranking, softmax

EPSILON = 1e-12


def best(candidates: Sequence[int], gain: Callable[[int], float]) -> int:
    """The candidate of the highest gain; of equals (to 1e-12) the first."""
    winner, highest = candidates[0], gain(candidates[0])
    for i in candidates[1:]:
        value = gain(i)
        if value > highest + EPSILON:
            winner, highest = i, value
    return winner


def greedy(n: int, k: int, chosen: list[int], gain: Callable[[int, list[int]], float]) -> list[int]:
    """Add the token of the highest gain given the chosen ones, until k."""
    picks = chosen[:k]
    while len(picks) < k:
        rest = [i for i in range(n) if i not in picks]
        picks.append(best(rest, lambda i: gain(i, picks)))
    return picks


def divprune(features: Array, k: int) -> list[int]:
    """DivPrune, sheet C1: D = 1 - cos; first the token whose nearest neighbour is farthest; then argmax_i min_S D."""
    n = len(features)
    far = [[1 - s for s in row] for row in cosines(features)]
    if n == 1:
        return [0][:k]
    seed = best(range(n), lambda i: min(far[i][j] for j in range(n) if j != i))
    return greedy(n, k, [seed], lambda i, s: min(far[i][j] for j in s))


def todre(features: Array, k: int, seed: int) -> list[int]:
    """ToDRE v2, sheet C2: seed = the top CLS-attention token; next = argmin_i sum_{c in S} cos(i, c)."""
    sim = cosines(features)
    return greedy(len(features), k, [seed], lambda i, s: -sum(sim[i][j] for j in s))


def zoo(scores: Sequence[float], features: Array, k: int) -> list[int]:
    """ZOO-Prune, sheet C4: first max S, then argmax S(i) (1 - max_{j in P} cos(Z_i, Z_j)).

    features: projected tokens Z. Decided: S is put on [0,1] (min-max) here; 1 - cos is not halved.
    """
    weight, sim = min_max(scores), cosines(features)
    seed = ranking(scores)[0]
    return greedy(len(features), k, [seed], lambda i, s: weight[i] * (1 - max(sim[i][j] for j in s)))


def greedyprune(scores: Sequence[float], features: Array, k: int, tau: float = 0.9) -> list[int]:
    """GreedyPrune, sheet C6: visit by decreasing saliency, keep if cos to every kept token <= tau, until k; then fill
    by saliency. The forced last visual token is `greedyprune_forced`."""
    order, kept = ranking(scores), list[int]()
    for i in order:
        if len(kept) < k and all(cosine(features[i], features[j]) <= tau for j in kept):
            kept.append(i)
    return kept + [i for i in order if i not in kept][: k - len(kept)]


def greedyprune_forced(scores: Sequence[float], features: Array, k: int, tau: float = 0.9) -> list[int]:
    """The same beside the last token, which is one of the k and suppresses none (sheet C6: the paper forces it)."""
    return [*greedyprune(scores[:-1], features[:-1], k - 1, tau), len(scores) - 1]


def cover(matrix: Array, k: int, bonus: Sequence[float] | None = None) -> list[int]:
    """Factoring 3 `cover(M)`: argmax_i sum_r (M_ri - best_r)^+ + bonus_i, best_r = 0 at the start. matrix [R,N]."""
    extra = [0.0] * matrix.shape[1] if bonus is None else list(bonus)

    def gain(i: int, chosen: list[int]) -> float:
        total = extra[i]
        for row in matrix:
            total += max(0.0, float(row[i]) - max([0.0, *(float(row[j]) for j in chosen)]))
        return total

    return greedy(matrix.shape[1], k, [], gain)


def mmtok_matrix(
    words: Array, projected: Array, encoded: Array, alpha: float = 0.5, text_t: float = 0.02, image_t: float = 0.2
) -> Array:
    """MMTok, sheet C3: [P; alpha Q], P = row-softmax(cos(words, projected) / 0.02) / T', Q = row-softmax(cos(encoded) /
    0.2) / N. words [T',d], projected [N,d], encoded [N,e]: encoder features."""
    rows = []
    for word in words:
        row = softmax([cosine(word, z) / text_t for z in projected])
        rows.append([p / len(words) for p in row])
    for x in encoded:
        row = softmax([cosine(x, y) / image_t for y in encoded])
        rows.append([alpha * p / len(encoded) for p in row])
    return np.array(rows)


def mmtok(words: Array, projected: Array, encoded: Array, k: int, alpha: float = 0.5) -> list[int]:
    """MMTok, sheet C3: greedy facility location on `mmtok_matrix`."""
    return cover(mmtok_matrix(words, projected, encoded, alpha), k)


def dpp_kernel(features: Array, relevance: Sequence[float] | None = None) -> Array:
    """CDPruner's kernel r_i cos_ij r_j (all r = 1: plain diversity).

    Decided: the sheets give CDPruner no section, only the gain "log residual norm" (factoring 3); this is the usual
    quality times similarity kernel of a determinantal process. Scaling of r is the caller's.
    """
    r = [1.0] * len(features) if relevance is None else list(relevance)
    sim = cosines(features)
    return np.array([[r[i] * sim[i][j] * r[j] for j in range(len(r))] for i in range(len(r))])


def dpp(kernel: Array, k: int) -> list[int]:
    """CDPruner, factoring 3 `dpp`: add the token that raises log det(L_S) most, i.e. of the largest residual
    L_ii - L_iS L_SS^+ L_Si. Residuals below 1e-10 count as 0 (then the lower index)."""

    def residual(i: int, chosen: list[int]) -> float:
        if not chosen:
            return float(kernel[i, i])
        inner = np.linalg.pinv(kernel[np.ix_(chosen, chosen)], rcond=1e-10)
        rest = float(kernel[i, i] - kernel[i, chosen] @ inner @ kernel[chosen, i])
        return rest if rest > 1e-10 else 0.0

    return greedy(len(kernel), k, [], residual)


def dart_pivots(
    norms: Sequence[float], image: Sequence[int], text: Sequence[int], p_image: int = 4, p_text: int = 4
) -> list[int]:
    """DART, sheet C7: the 4 image and 4 text tokens of the largest L1 key norm. norms: one per token of the sequence.

    Decided: image pivots first, each group by falling norm (the release goes in the order of a Python set).
    """
    by_image = [image[p] for p in ranking([norms[i] for i in image])][:p_image]
    by_text = [text[p] for p in ranking([norms[i] for i in text])][:p_text]
    return by_image + by_text


def dart_release(
    hidden: Array,
    norms: Sequence[float],
    image: Sequence[int],
    text: Sequence[int],
    budget: int,
    p_image: int = 4,
    p_text: int = 4,
) -> list[int]:
    """DART as released, sheet C7: image pivots, then per pivot the floor(budget / 8) remaining image tokens of the
    LOWEST cosine to it. Keeps 4 + 8 floor(budget / 8). Returns positions in the sequence."""
    pivots = dart_pivots(norms, image, text, p_image, p_text)
    kept = [p for p in pivots if p in set(image)]
    for pivot in pivots:
        rest = [i for i in image if i not in kept]
        order = ranking([-cosine(hidden[i], hidden[pivot]) for i in rest])
        kept += [rest[p] for p in order[: budget // len(pivots)]]
    return kept


def dart(
    hidden: Array,
    norms: Sequence[float],
    image: Sequence[int],
    text: Sequence[int],
    k: int,
    p_image: int = 4,
    p_text: int = 4,
) -> list[int]:
    """DART with exactly k, factoring 3 `pivot`: image pivots, then the pivots in turn each take their lowest-cosine
    remaining image token. Decided: the turn starts with the first pivot; if k < 4, the k pivots of largest norm."""
    pivots = dart_pivots(norms, image, text, p_image, p_text)
    kept = [p for p in pivots if p in set(image)][:k]
    turn = 0
    while len(kept) < min(k, len(image)):
        rest = [i for i in image if i not in kept]
        apart = {i: -cosine(hidden[i], hidden[pivots[turn]]) for i in rest}
        kept.append(best(rest, apart.__getitem__))
        turn = (turn + 1) % len(pivots)
    return kept


def tome_pairs(metric: Array, r: int) -> list[tuple[int, int]]:
    """ToMe, sheet A7: even tokens propose their most similar odd token; the r most similar pairs (even, odd).

    Decided: counted from 0; at most all evens; equal similarities by the lower even, a proposal by the lower odd.
    """
    edges = []
    odds = range(1, len(metric), 2)
    for i in range(0, len(metric), 2):
        if len(odds):
            alike = {o: cosine(metric[i], metric[o]) for o in odds}
            j = best(odds, alike.__getitem__)
            edges.append((i, j, alike[j]))
    order = ranking([s for _, _, s in edges])[:r]
    return [(edges[e][0], edges[e][1]) for e in order]


def vispruner_peel(features: Array, scores: Sequence[float], rest: Sequence[int], k: int, step: int = 8) -> list[int]:
    """VisPruner "diverse", sheet A8: the rest in falling attention; even/odd by place in that list; drop the
    min(8, R - k) evens most similar to any odd; repeat until k. Returns survivors in raster order.

    Decided: of equally duplicated evens the one of higher attention drops first; never more than there are evens.
    """
    alive = sorted(rest, key=lambda i: (-scores[i], i))
    while len(alive) > k:
        if len(alive) == 1:
            return []
        evens, odds = alive[0::2], alive[1::2]
        double = [max(cosine(features[i], features[j]) for j in odds) for i in evens]
        gone = {evens[p] for p in ranking(double)[: min(step, len(alive) - k)]}
        alive = [i for i in alive if i not in gone]
    return sorted(alive)


def vispruner(features: Array, scores: Sequence[float], k: int, share: float = 0.5) -> list[int]:
    """VisPruner, sheet A8: the top r T by attention, and r's complement from the peel. Decided: floor(r T)."""
    important = ranking(scores)[: int(share * k)]
    rest = [i for i in range(len(scores)) if i not in important]
    return sorted(important + vispruner_peel(features, scores, rest, k - len(important)))


def lattice(rows: int, columns: int, k: int, start: int = 0) -> list[int]:
    """BTP's spatial seeds, sheet D2: farthest point on the grid by Manhattan distance. Returns cells in pick order.

    Decided: the first seed is `start`, cell 0 by default (the sheet names none).
    """

    def gap(a: int, b: int) -> float:
        return float(abs(a // columns - b // columns) + abs(a % columns - b % columns))

    return greedy(rows * columns, k, [start], lambda i, s: min(gap(i, j) for j in s))


def farthest(features: Array, chosen: Sequence[int], k: int) -> list[int]:
    """BTP's filling, sheet D2: farthest point (1 - cos) continued from a given set."""
    sim = cosines(features)
    if not chosen:
        return divprune(features, k)
    return greedy(len(features), k, list(chosen), lambda i, s: min([1 - sim[i][j] for j in s], default=math.inf))


def cross(chosen: Sequence[int], rows: int, columns: int) -> list[int]:
    """HiPrune's buffers (sheet B4): the four neighbours of each chosen cell, inside the grid.

    Decided: no neighbour across the end of a row (the release wraps). Raster order, chosen cells left out.
    """
    found = set[int]()
    for i in chosen:
        row, column = divmod(i, columns)
        for r, c in ((row - 1, column), (row, column - 1), (row, column + 1), (row + 1, column)):
            if 0 <= r < rows and 0 <= c < columns:
                found.add(r * columns + c)
    return sorted(found - set(chosen))


def hiprune(early: Sequence[float], deep: Sequence[float], columns: int, k: int, alpha: float = 0.1) -> list[int]:
    """HiPrune, sheet B4: the top round(alpha T / 5) of the early layer, their crosses, then the deep layer's best.

    Decided: halves round up; anchors with buffers never above k (buffers give way by the early score).
    """
    anchors = ranking(early)[: min(k, math.floor(alpha * k / 5 + 0.5))]
    buffers = cross(anchors, len(early) // columns, columns)
    buffers = sorted(buffers, key=lambda i: (-early[i], i))[: k - len(anchors)]
    kept = anchors + buffers
    kept += [i for i in ranking(deep) if i not in kept][: k - len(kept)]
    return sorted(kept)


def vscan(local: Sequence[float], deep: Sequence[float], columns: int, k: int, side: int = 6) -> list[int]:
    """VScan, sheet B7: half of T by the early row, the same number in every window; the rest by the deep row.

    Per window floor(T / 2 / windows), as the sheet; the deep row fills, earlier picks left out.
    """
    rows = len(local) // columns
    windows: dict[tuple[int, int], list[int]] = {}
    for i in range(rows * columns):
        windows.setdefault((i // columns // side, i % columns // side), []).append(i)
    kept: list[int] = []
    for cells in windows.values():
        kept += [cells[p] for p in ranking([local[i] for i in cells])[: k // 2 // len(windows)]]
    kept += [i for i in ranking(deep) if i not in kept][: k - len(kept)]
    return sorted(kept)


def stride(n: int, k: int) -> list[int]:
    """Uniform, sheet A1: floor((j + 1/2) N / K)."""
    return [(2 * j + 1) * n // (2 * k) for j in range(k)]


def btp_debiased(scores: Sequence[float], k: int, factor: float) -> list[int]:
    """BTP, sheet D2: among the top `factor` k by attention, early positions (index < k) first, then the later ones.

    Decided: floor(factor k) candidates, at most all; inside both halves by falling score.
    """
    pool = ranking(scores)[: min(len(scores), int(factor * k + 1e-9))]
    order = [i for i in pool if i < k] + [i for i in pool if i >= k]
    return sorted(order[:k])


def mustdrop(rows: Sequence[Sequence[float]], g: float, t: float, key: Sequence[int]) -> list[int]:
    """MustDrop's LM stages (sheet D5): i goes if its sum over text < g times the total AND its maximum < t; key stays.

    rows: one per text token, head means. Decided: the total is over text and visual tokens alike.
    """
    n = len(rows[0])
    total = sum(sum(row) for row in rows)
    gone = [i for i in range(n) if sum(row[i] for row in rows) < g * total and max(row[i] for row in rows) < t]
    return [i for i in range(n) if i not in gone or i in key]


def dart_shares(features: Array, norms: Sequence[float], k: int, p_image: int, words: Array | None = None) -> list[int]:
    """DART with exactly k as its release goes about it (sheet C7): the image pivots, then every pivot in turn takes its
    whole share of what is left, the lowest cosines first.

    words: the text pivots' rows, in their order. Decided: K less the image pivots is split evenly, the remainder one
    each to the first pivots, as floor(budget / 8) would lose it.
    """
    pivots = ranking(norms)[: min(p_image, k)]
    rows = [features[p] for p in pivots] + ([] if words is None else list(words))
    chosen, (share, more) = list(pivots), divmod(k - len(pivots), len(rows))
    for number, row in enumerate(rows):
        rest = [i for i in range(len(features)) if i not in chosen]
        order = ranking([-cosine(features[i], row) for i in rest])
        chosen += [rest[p] for p in order[: share + (number < more)]]
    return chosen
