"""What the language model's criteria must give, from an eager model's own tensors, in float64 and one loop per sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pruning_support import IMAGE, model

from autoprune.pruning import prefill
from autoprune.pruning.plan import evaluate
from autoprune.pruning.session import Session

Rows = list[list[float]]


def captured(
    made: Any, batch: dict[str, torch.Tensor], resolved: Any, number: int = 0, answer_start: int | None = None
) -> list[list[float]]:
    """Scores of the policy's stage `number` on a run, of the visual tokens that are still there."""
    seen: list[list[list[float]]] = []
    engine: Any = prefill
    original = engine.reduce

    def spy(planned: Any, view: Any, *rest: Any) -> Any:
        values = evaluate(planned.picks[0].score, view)
        seen.append([row[real].tolist() for row, real in zip(values.double(), view.valid, strict=True)])
        return original(planned, view, *rest)

    engine.reduce = spy
    try:
        with Session(made, resolved) as session, torch.no_grad():
            size = batch["input_ids"].shape
            starts = torch.full((size[0],), size[1] if answer_start is None else answer_start)
            with session.teacher_forced(starts):
                made(**batch, use_cache=False)
    finally:
        engine.reduce = original
    return seen[number]


class Prompt:
    """One unpadded sample: which of its columns are visual and which are text after the last visual one."""

    def __init__(self, batch: dict[str, torch.Tensor]) -> None:
        ids = batch["input_ids"][0].tolist()
        self.visual = [c for c, i in enumerate(ids) if i == IMAGE]
        self.text = list(range(self.visual[-1] + 1, len(ids)))
        self.all = list(range(len(ids)))


def maps(batch: dict[str, torch.Tensor], layer: int, rope: bool = True, temperature: float = 1.0) -> list[Rows]:
    """Attention of one layer, [head][query][key], from the eager model's own projections, with or without RoPE."""
    made = model("llava", "eager")
    attention = made.model.language_model.layers[layer].self_attn
    seen: dict[str, torch.Tensor] = {}
    handles = [
        getattr(attention, f"{n}_proj").register_forward_hook(lambda m, a, o, n=n: seen.update({n: o[0].double()}))
        for n in "qk"
    ]
    with torch.no_grad():
        out = made(**batch, output_attentions=True, use_cache=False)
    for handle in handles:
        handle.remove()
    if rope and temperature == 1:
        found: list[Rows] = out.attentions[layer][0].double().tolist()
        return found
    length, width = len(seen["q"]), attention.head_dim
    heads, groups = seen["q"].shape[1] // width, seen["k"].shape[1] // width
    angles = [[p / 10000 ** (2 * i / width) for i in range(width // 2)] for p in range(length)]
    q, k = seen["q"].tolist(), seen["k"].tolist()
    result = []
    for h in range(heads):
        g = h * groups // heads
        qs = [turned(row[h * width : (h + 1) * width], angles[p], rope) for p, row in enumerate(q)]
        ks = [turned(row[g * width : (g + 1) * width], angles[p], rope) for p, row in enumerate(k)]
        rows = []
        for i in range(length):
            logits = [dot(qs[i], ks[j]) / math.sqrt(width) / temperature for j in range(i + 1)]
            rows.append(softmax(logits) + [0.0] * (length - i - 1))
        result.append(rows)
    return result


def turned(row: Sequence[float], angles: Sequence[float], rope: bool) -> list[float]:
    if not rope:
        return list(row)
    half = len(row) // 2
    low = [row[i] * math.cos(angles[i]) - row[half + i] * math.sin(angles[i]) for i in range(half)]
    high = [row[half + i] * math.cos(angles[i]) + row[i] * math.sin(angles[i]) for i in range(half)]
    return low + high


def gravity(length: int, temperature: float) -> Rows:
    """The attention [query][key] of all-ones queries and keys at positions 0, 1, …: what distance alone makes."""
    width = model("llava", "eager").model.language_model.layers[0].self_attn.head_dim
    angles = [[p / 10000 ** (2 * i / width) for i in range(width // 2)] for p in range(length)]
    ones = [turned([1.0] * width, a, True) for a in angles]
    rows = []
    for i in range(length):
        shares = softmax([dot(ones[i], ones[j]) / math.sqrt(width) / temperature for j in range(i + 1)])
        rows.append(shares + [0.0] * (length - i - 1))
    return rows


def over_rope(attention: list[Rows], alone: Rows, columns: Sequence[int]) -> list[Rows]:
    """Attention divided by `alone`, softmaxed over the same columns; 0 where that is 0."""
    alone = only(alone, columns)
    return [
        [[a / g if g else 0.0 for a, g in zip(row, under, strict=True)] for row, under in zip(rows, alone, strict=True)]
        for rows in attention
    ]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def length(a: Sequence[float]) -> float:
    return math.sqrt(dot(a, a))


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return dot(a, b) / (length(a) * length(b))


def softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    exps = [math.exp(x - top) for x in logits]
    return [e / sum(exps) for e in exps]


def only(rows: Rows, columns: Sequence[int]) -> Rows:
    """Softmax over some keys only: the shares of the others are gone and the rest sums to 1."""
    result = []
    for row in rows:
        kept = [x if c in set(columns) else 0.0 for c, x in enumerate(row)]
        total = sum(kept)
        result.append([x / total if total else 0.0 for x in kept])
    return result


def heads_together(ends: Rows, heads: str, visual: Sequence[int]) -> list[float]:
    """[head][column] -> [column]."""
    if heads == "top_half":
        brought = [sum(e[c] for c in visual) for e in ends]
        half = max(1, len(ends) // 2)
        ends = [ends[h] for h in sorted(range(len(ends)), key=lambda h: -brought[h])[:half]]
    columns = list(zip(*ends, strict=True))
    if heads == "max":
        return [max(c) for c in columns]
    if heads == "rms":
        return [math.sqrt(sum(x * x for x in c) / len(c)) for c in columns]
    return [sum(c) / (1 if heads == "sum" else len(c)) for c in columns]


def walked(
    attention: list[Rows],
    start: Sequence[int],
    among: Sequence[int],
    hops: int,
    *,
    heads: str,
    visual: Sequence[int],
    gate: float | None = None,
    symmetrise: bool = False,
) -> list[float]:
    """Where a walk ends on the visual columns, by the definition."""
    size = len(attention[0])
    masses = [[1 / len(start) if c in set(start) else 0.0 for c in range(size)] for _ in attention]
    for hop in range(hops):
        ends = []
        for rows, mass in zip(attention, masses, strict=True):
            end = [sum(mass[r] * rows[r][c] for r in among) for c in range(size)]
            if hop == 0 and symmetrise:
                for c in among:
                    end[c] += sum(mass[r] * rows[c][r] for r in among) - mass[c] * rows[c][c]
            ends.append(end)
        masses = [[e if c in set(among) else 0.0 for c, e in enumerate(end)] for end in ends]
        if gate is not None:
            met = heads_together(ends, heads, visual)
            mean, most = sum(met[c] for c in among) / len(among), max(met[c] for c in among)
            on = [c for c in among if met[c] > gate * mean or met[c] == most]
            masses = [[1 / len(on) if c in on else 0.0 for c in range(size)] for _ in attention]
    final = heads_together(ends, heads, visual)
    return [final[c] for c in visual]


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> bool:
    assert len(found) == len(expected)
    scale = max(abs(x) for x in expected) or 1.0
    return all(abs(f - e) <= tolerance * scale for f, e in zip(found, expected, strict=True))
