"""Attention as a walk (factoring 2.1), knob by knob: where it starts, how heads and layers are put together.

`attention.py` has the published methods; here are the parameters they share, one at a time, so that a part can be held
against every setting. A map is [heads, queries, keys], softmaxed over keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from oracles.attention import logit_row
from oracles.basics import Array, mean, mean_vector, norm, softmax, top


def received(one: Array, queries: Sequence[int], visual: Sequence[int]) -> list[float]:
    """Mean over the queries of one head's attention to each visual token. one [queries, keys].

    The column mean is the first step of a walk that starts evenly on these queries (factoring 2.1, identities).
    """
    return [mean([float(one[q, i]) for q in queries]) for i in visual]


def heads_together(
    rows: Sequence[Sequence[float]], how: str = "mean", kept: Sequence[int] | None = None
) -> list[float]:
    """One score per token from one row per head: mean | sum | max | rms; top_half = the mean over the heads `kept`.

    Decided: where top_half gets no list, the half of the heads (floor, at least one) with the largest mass in `rows`
    (sheet A4 "v2 extras"); equal masses to the lower head.
    """
    if how == "top_half":
        heads = top([sum(row) for row in rows], max(1, len(rows) // 2)) if kept is None else list(kept)
        return [mean([rows[h][i] for h in heads]) for i in range(len(rows[0]))]
    by_token = [[row[i] for row in rows] for i in range(len(rows[0]))]
    if how == "rms":
        return [math.sqrt(mean([p * p for p in token])) for token in by_token]
    if how == "mean":
        return [mean(token) for token in by_token]
    return [sum(token) if how == "sum" else max(token) for token in by_token]


def one_hop(attention: Array, queries: Sequence[int], visual: Sequence[int], heads: str = "mean") -> list[float]:
    """A walk of one hop: evenly on the queries, then to the visual tokens, heads put together at the end."""
    return heads_together([received(a, queries, visual) for a in attention], heads)


def most_seen_by_text(attention: Array, text: Sequence[int], visual: Sequence[int], heads: str = "mean") -> list[float]:
    """PTP's and MustDrop's maximum (sheets B12, D5): the largest attention any text token gives, heads first."""
    rows = [heads_together([received(a, [t], visual) for a in attention], heads) for t in text]
    return [max(row[i] for row in rows) for i in range(len(visual))]


def several_hops(attention: Array, hops: int, nodes: Sequence[int]) -> list[list[float]]:
    """PageRank without damping on each head's own map, from an even start (sheets D6, B13). One row per head.

    Decided: the walk stays on `nodes`; rows are not scaled to 1 again there.
    """
    found = []
    for a in attention:
        mass = [1.0 / len(nodes)] * len(nodes)
        for _ in range(hops):
            mass = [sum(m * float(a[q, i]) for m, q in zip(mass, nodes, strict=True)) for i in nodes]
        found.append(mass)
    return found


def mean_query(q: Array, k: Array, keys: Sequence[int] | None = None, heads: str = "mean") -> list[float]:
    """FlowCut's pseudo-CLS without a CLS token (sheet B6, trap 5): q averaged over all tokens, then ONE softmax row.

    Not the column mean of the map: softmax comes after the mean. q, k [H,n,d]; grouped heads share keys in order.
    """
    share = len(q) // len(k)
    seen = range(k.shape[1]) if keys is None else keys
    rows = []
    for h in range(len(q)):
        rows.append(softmax(logit_row(mean_vector(q[h]), k[h // share], seen)))
    return heads_together(rows, heads)


def mean_query_seen(attention: Array, queries: Sequence[int], seen: Sequence[int]) -> list[float]:
    """The same of some queries that all see these keys, from their softmax rows: the logits of a mean query are the
    means of the queries' logits, so its row is their geometric mean, scaled to sum 1 over the keys. Mean over heads."""
    rows = []
    for a in attention:
        rows.append(softmax([mean([math.log(a[q, j]) for q in queries]) for j in seen]))
    return heads_together(rows)


def by_length(attention: Array, states: Array, nodes: Sequence[int]) -> list[float]:
    """One hop among nodes that start with mass in proportion to the L2 norm of their states [nodes, d] (G-Prune's
    signal, sheet C5). Mean over heads."""
    sizes = [norm(state, 2) for state in states]
    mass = [size / sum(sizes) for size in sizes]
    rows = [[sum(m * float(a[q, i]) for m, q in zip(mass, nodes, strict=True)) for i in nodes] for a in attention]
    return heads_together(rows)


def tempered(row: Sequence[float], temperature: float) -> list[float]:
    """softmax(logits / T) read from a row that is softmax(logits): p^(1/T), scaled to sum 1."""
    return softmax([math.log(p) / temperature if p > 0 else -math.inf for p in row])


def layers_together(rows: Sequence[Sequence[float]], how: str, decay: float = 0.5) -> list[float]:
    """Scores of several layers, in order, as one: sum (VTC-CLS, B2) | ema (FlowCut, B6) | difference (CATP, C8).

    ema: s <- decay s + (1 - decay) new, from the first layer's scores. difference: the last less the one before, not
    below 0.
    """
    if how == "sum":
        return [sum(row[i] for row in rows) for i in range(len(rows[0]))]
    if how == "difference":
        return [max(0.0, now - before) for now, before in zip(rows[-1], rows[-2], strict=True)]
    found = list(rows[0])
    for row in rows[1:]:
        found = [decay * old + (1 - decay) * new for old, new in zip(found, row, strict=True)]
    return found


def flowcut(attention: Array, values: Array) -> list[float]:
    """FlowCut, sheet B6, one block: (rel / sum + sem / sum) * || mean_h v_j ||_1 of the tokens behind the CLS.

    attention [H,n,n], values [H,n,d], CLS at 0; rel = its row, sem = mean_h softmax_j(v_CLS . v_j), no scale.
    Decided: rows and sums are over the tokens without the CLS; sem's softmax is over all of them, CLS included.
    """
    n = attention.shape[2]
    rel = [mean([float(a[0, j]) for a in attention]) for j in range(1, n)]
    shares = [softmax([float(v[0] @ v[j]) for j in range(n)]) for v in values]
    sem = [mean([row[j] for row in shares]) for j in range(1, n)]
    size = [norm(mean_vector(v[j] for v in values), 1) for j in range(1, n)]
    return [(r / sum(rel) + s / sum(sem)) * z for r, s, z in zip(rel, sem, size, strict=True)]
