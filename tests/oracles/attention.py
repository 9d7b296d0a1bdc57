"""Scores read from attention: who looks at a visual token, and how much.

A map is [heads, queries, keys], softmaxed over keys. An encoder map with a CLS token has it at index 0.
`visual`, `text`: positions in the sequence of the language model. Every function returns one score per visual token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from oracles.basics import Array, cosine, dot, mean, mean_vector, min_max, norm, ranking, softmax, top


def logit_row(query: Array, keys: Array, allowed: Sequence[int]) -> list[float]:
    """q . k_j / sqrt(d) for the allowed j, of one head. query [d], keys [n,d]."""
    return [dot(query, keys[j]) / math.sqrt(len(query)) for j in allowed]


def heads_row(q: Array, k: Array, row: int, allowed: Sequence[int]) -> list[float]:
    """Mean over heads of softmax over the allowed keys. q [H,n,d]; k [Hk,n,d], head h reads key head h // (H / Hk)."""
    total = [0.0] * len(allowed)
    share = len(q) // len(k)
    for h in range(len(q)):
        for j, p in enumerate(softmax(logit_row(q[h, row], k[h // share], allowed))):
            total[j] += p / len(q)
    return total


def head_mean(attention: Array, query: int, key: int) -> float:
    return mean([float(a[query, key]) for a in attention])


# --- the language model -----------------------------------------------------------------------------------------------


def fastv(attention: Array, visual: Sequence[int], last: int | None = None) -> list[float]:
    """FastV, sheet A2: s_i = mean_h A[h, last, i], last = the last prompt token (default: the last row)."""
    row = attention.shape[1] - 1 if last is None else last
    return [head_mean(attention, row, i) for i in visual]


def pyramid_drop(q: Array, k: Array, visual: Sequence[int], last: int | None = None) -> list[float]:
    """PyramidDrop, sheet A3: the last instruction token's row, softmax over the whole causal prefix, mean over heads.

    q, k: the NEXT layer's projections of the current states. Decided: they come rotated (the sheet does not say);
    scale d^-0.5; the row's own key belongs to its prefix; grouped heads share keys in order.
    """
    row = q.shape[1] - 1 if last is None else last
    found = heads_row(q, k, row, range(row + 1))
    return [found[i] for i in visual]


def sparsevlm_raters(visual: Array, text: Array) -> list[int]:
    """SparseVLM, sheet A4 "text raters": softmax over text of V T^T, mean over V; the text tokens above the mean.

    visual [N,d], text [T,d]: raw embeddings at the LM's input. Decided: no scale in V T^T, "above" is strict, and
    where none is above (all equal) every text token rates.
    """
    shares = [0.0] * len(text)
    for v in visual:
        for t, p in enumerate(softmax([dot(v, word) for word in text])):
            shares[t] += p / len(visual)
    average = mean(shares)
    return [t for t, share in enumerate(shares) if share > average] or list(range(len(text)))


def sparsevlm(attention: Array, visual: Sequence[int], raters: Sequence[int]) -> list[float]:
    """SparseVLM v1, sheet A4: s_i = mean_{r in raters} mean_h A[h, r, i]. raters: positions in the sequence."""
    return [mean([head_mean(attention, r, i) for r in raters]) for i in visual]


def sparsevlm_heads(attention: Array, visual: Sequence[int], raters: Sequence[int]) -> list[int]:
    """SparseVLM v2, sheet A4 "v2 extras": the half of the heads with the largest rater->visual mass.

    Decided: half is floor(H / 2), at least one; mass is the sum over raters and visual tokens; ties to the lower head.
    """
    mass = [sum(float(a[r, i]) for r in raters for i in visual) for a in attention]
    return top(mass, max(1, len(attention) // 2))


def sparsevlm_v2(
    attention: Array, visual: Sequence[int], raters: Sequence[int], gravity: Array | None = None
) -> list[float]:
    """SparseVLM v2, sheet A4: v1's score over the best half of the heads.

    gravity [H,n,n]: the map that rotated all-ones queries and keys give; the attention is divided by it.
    Decided: divided before the heads are compared (the sheet's order); used only where it is given.
    """
    seen = attention.copy()
    if gravity is not None:
        for h in range(len(seen)):
            for r in raters:
                for i in visual:
                    seen[h, r, i] = attention[h, r, i] / gravity[h, r, i]
    heads = sparsevlm_heads(seen, visual, raters)
    return [mean([float(seen[h, r, i]) for h in heads for r in raters]) for i in visual]


def adaptinfer(attention: Array, visual: Sequence[int], text: Sequence[int]) -> list[float]:
    """AdaptInfer, sheet D1: B = A_tt + A_tt^T - diag, w = column sums of B per head, s = sum_h w_h^T A_h[text, vis].

    Decided: "- diag" takes the doubled diagonal back once; text = tokens after the image; no softmax (as the code).
    """
    scores = [0.0] * len(visual)
    for a in attention:
        for t in text:
            weight = sum(float(a[s, t] + a[t, s]) for s in text if s != t) + float(a[t, t])
            for n, i in enumerate(visual):
                scores[n] += weight * float(a[t, i])
    return scores


def feather(q: Array, k: Array, visual: Sequence[int], last: int | None = None) -> list[float]:
    """FEATHER, sheet D4: q_last and k without rotation, softmax over the image keys only, mean over heads."""
    row = q.shape[1] - 1 if last is None else last
    return heads_row(q, k, row, visual)


def aim(logits: Array, visual: Sequence[int], hops: int = 5, temperature: float = 0.1) -> list[float]:
    """AIM, sheet D6 (and the video sheet, stage 2): M = softmax(logits / 0.1), causal, per head; v <- v M from uniform,
    5 times, no damping, over ALL tokens; s_i = sqrt(mean_h v_i^2).

    Decided: v starts at 1/n; the logits are the scaled ones (q k^T d^-0.5), future keys are masked here.
    """
    n = logits.shape[1]
    squares = [0.0] * n
    for head in logits:
        rows = [softmax([float(head[i, j]) / temperature for j in range(i + 1)]) for i in range(n)]
        mass = [1.0 / n] * n
        for _ in range(hops):
            mass = [sum(mass[i] * rows[i][j] for i in range(j, n)) for j in range(n)]
        for j in range(n):
            squares[j] += mass[j] ** 2 / len(logits)
    return [math.sqrt(squares[i]) for i in visual]


def ptp_instruction(attention: Array, visual: Sequence[int], text: Sequence[int]) -> list[float]:
    """PTP, sheet B12: c_j = max over text tokens of mean-head LM attention at layer 2 (softmaxed over all keys)."""
    return [max(head_mean(attention, t, j) for t in text) for j in visual]


def ptp(received: Sequence[float], instruction: Sequence[float], a: float = 0.5) -> list[float]:
    """PTP, sheet B12: (1 - a) minmax(b) + a minmax(c). b: ViT attention received in the tile.

    Decided: min-max over the tokens passed in. The sheet does not say tile or image; top-k per tile makes it the tile.
    """
    b, c = min_max(received), min_max(instruction)
    return [(1 - a) * x + a * y for x, y in zip(b, c, strict=True)]


def ptp_regions(tiles: Sequence[Sequence[float]]) -> list[float]:
    """PTP, sheet B12: a tile's share of the budget is its mean received attention over the sum of these means."""
    saliency = [mean(tile) for tile in tiles]
    return [s / sum(saliency) for s in saliency]


def catp_stage_2(
    now: Array, before: Array, hidden: Array, candidates: Sequence[int], query: Sequence[int], weight: float = 0.6
) -> list[float]:
    """CATP, sheet C8 stage 2: max(0, A^K[last,c] - A^{K-1}[last,c]) + 0.6 cos(h_c, mean of query-sample hiddens).

    now, before: maps of layers K and K-1; hidden [n,d]. Decided: head means are subtracted, then the max with 0;
    h = the states that enter the pruned layer; cosine as it is, not rescaled (the sheet rescales in stage 1 only).
    """
    asked = mean_vector(hidden[j] for j in query)
    last = now.shape[1] - 1
    rise = [max(0.0, head_mean(now, last, c) - head_mean(before, last, c)) for c in candidates]
    return [r + weight * cosine(hidden[c], asked) for r, c in zip(rise, candidates, strict=True)]


def transition(x: Array, y: Array) -> list[float]:
    """TransPrune, sheet D3, one module: (||y|| / ||x||) exp(1 - cos(x,y)) / sum over ALL n tokens of exp(1 - cos).

    x [n,d]: the module's input after its norm; y: its output before the residual. Decided: 0 where x is zero.
    """
    turn = [math.exp(1 - cosine(a, b)) for a, b in zip(x, y, strict=True)]
    size = [norm(b) / norm(a) if norm(a) > 0 else 0.0 for a, b in zip(x, y, strict=True)]
    return [s * t / sum(turn) for s, t in zip(size, turn, strict=True)]


def transprune_ttv(modules: Sequence[tuple[Array, Array]], visual: Sequence[int]) -> list[float]:
    """TransPrune, sheet D3: the sum of `transition` over attention and FFN of each layer 7..12, of visual tokens."""
    passed = [transition(x, y) for x, y in modules]
    return [sum(row[i] for row in passed) for i in visual]


def transprune(ttv: Sequence[float], iga: Sequence[float]) -> list[float]:
    """TransPrune, sheet D3: TTV / sum + IGA / sum. IGA: `sparsevlm` with every instruction token as rater.

    Decided: sums over the surviving visual tokens.
    """
    return [t / sum(ttv) + g / sum(iga) for t, g in zip(ttv, iga, strict=True)]


# --- the vision encoder -----------------------------------------------------------------------------------------------


def fastervlm(attention: Array) -> list[float]:
    """FasterVLM, sheet B1: s = mean_h A[h, CLS, 1:] of map -2. Not renormalised without the CLS column."""
    return [head_mean(attention, 0, j) for j in range(1, attention.shape[2])]


def vtc_cls(maps: Sequence[Array]) -> list[float]:
    """VTC-CLS, sheet B2: sum over layers start..22 of mean_h A^l[h, CLS, :]. maps: those layers' maps."""
    rows = [fastervlm(a) for a in maps]
    return [sum(row[j] for row in rows) for j in range(len(rows[0]))]


def hired(attention: Array) -> list[float]:
    """HiRED, sheet B3: the CLS row summed over heads (block 22 ranks tokens, block 0 sets the tiles' shares)."""
    return [sum(float(a[0, j]) for a in attention) for j in range(1, attention.shape[2])]


def hired_tiles(
    attention: Array, grid: tuple[int, int], tiles: tuple[int, int], alpha: float = 0.5, bands: bool = False
) -> list[int]:
    """HiRED, sheet B3 "Tiles": how many of the overview's top (1-alpha) N tokens (block 0) fall in each tile.

    grid: rows and columns of the overview; tiles: rows and columns of tiles. bands: the release's bug, tokens cut in
    raster order. Decided: floor((1-alpha) N) tokens; a token of row r is in tile row floor(r ph / h), columns alike.
    """
    (h, w), (ph, pw) = grid, tiles
    found = [0] * (ph * pw)
    for i in top(hired(attention), int((1 - alpha) * h * w)):
        row, column = divmod(i, w)
        tile = i * ph * pw // (h * w) if bands else (row * ph // h) * pw + column * pw // w
        found[tile] += 1
    return found


def hired_budgets(total: int, overview: int, counts: Sequence[int], alpha: float = 0.5) -> tuple[int, list[int]]:
    """HiRED, sheet B3: the overview gets alpha of the total (at most its tokens), tiles share the rest by counts.

    Decided: floors, then largest remainders (ties to the lower tile), as int() in the release loses tokens; no cap at
    a tile's own size (the sheet names none); equal shares where no count is above 0.
    """
    first = min(int(alpha * total), overview)
    weights = list(counts) if sum(counts) else [1] * len(counts)
    exact = [(total - first) * c / sum(weights) for c in weights]
    budgets = [int(e) for e in exact]
    for t in ranking([e - b for e, b in zip(exact, budgets, strict=True)])[: total - first - sum(budgets)]:
        budgets[t] += 1
    return first, budgets


def hiprune(attention: Array, has_cls: bool) -> list[float]:
    """HiPrune, sheet B4: column mean over all queries and heads, CLS column removed.

    Decided: the CLS row is one of "all queries".
    """
    queries, keys = attention.shape[1:]
    first = 1 if has_cls else 0
    return [mean([head_mean(attention, q, j) for q in range(queries)]) for j in range(first, keys)]


def fopru(attention: Array, has_cls: bool) -> list[float]:
    """FoPru rank, sheet B5: attention received in the penultimate layer, mean over heads and queries.

    Decided: as HiPrune, the CLS row counts (the factoring starts both walks at `all`).
    """
    return hiprune(attention, has_cls)


def fopru_row(scores: Sequence[float], width: int, k: int) -> list[int]:
    """FoPru row, sheet B5: average per image row, keep whole top rows. Returns kept tokens in raster order.

    Decided: floor(k / width) whole rows; what is left of k is the beginning of the next row.
    """
    rows = [list(range(start, start + width)) for start in range(0, len(scores), width)]
    order = ranking([mean([scores[i] for i in row]) for row in rows])
    whole, rest = divmod(k, width)
    kept = [i for r in order[:whole] for i in rows[r]]
    if rest:
        kept += rows[order[whole]][:rest]
    return sorted(kept)


def vflowopt(attention: Array, has_cls: bool, t: float) -> list[float]:
    """VFlowOpt, sheet B8: r_j = mean_q mean_h A; queries with r > t mean(r); mean over those queries' rows.

    Decided: visual tokens only, on both sides (the factoring's "vision -> gated vision -> vision"; SigLIP has no CLS),
    rows not renormalised; where none passes the gate, the one with the largest r does (the limit of growing t).
    """
    first = 1 if has_cls else 0
    visual = range(first, attention.shape[1])
    received = [mean([head_mean(attention, q, j) for q in visual]) for j in visual]
    passing = [q for q, r in zip(visual, received, strict=True) if r > t * mean(received)]
    passing = passing or [first + ranking(received)[0]]
    return [mean([head_mean(attention, q, j) for q in passing]) for j in visual]


def prumerge(q: Array, k: Array) -> list[float]:
    """PruMerge, sheet A6: the CLS row of ONE head of the full width: softmax(q_cls . k_j / sqrt(D)). q, k [N+1,D].

    Decided: softmax over all N + 1 keys, then the CLS entry is left out (scores sum to less than 1).
    """
    return softmax(logit_row(q[0], k, range(len(k))))[1:]


def zero_tprune(attention: Array, hops: int, has_cls: bool, band: tuple[float, float] = (0.01, 0.7)) -> list[float]:
    """Zero-TPrune, sheet B13, I-stage: s <- A^T s per head, heads combined by RMS, heads of odd variance ignored.

    CLS starts with sqrt(N) times the others' mass. Decided: s has mean 1 over all tokens (the sheet gives no scale,
    and the band means nothing without one); population variance over all tokens after the last hop; bounds inclusive;
    if every head is out, all count.
    """
    n = attention.shape[1]
    start = [math.sqrt(n - 1) if has_cls and i == 0 else 1.0 for i in range(n)]
    start = [s * n / sum(start) for s in start]
    ranked: list[list[float]] = []
    for a in attention:
        s = start
        for _ in range(hops):
            s = [sum(float(a[i, j]) * s[i] for i in range(n)) for j in range(n)]
        ranked.append(s)
    spread = [mean([(x - mean(s)) ** 2 for x in s]) for s in ranked]
    used = [s for s, v in zip(ranked, spread, strict=True) if band[0] <= v <= band[1]] or ranked
    scores = [math.sqrt(mean([s[j] ** 2 for s in used])) for j in range(n)]
    return scores[1:] if has_cls else scores
