"""What tests of the tower's criteria share: what a run sees, where values stand, and a walk in plain loops."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from pruning_support import LAYERS, Sample, policy, stage
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from autoprune.pruning import prefill
from autoprune.pruning.plan import evaluate
from autoprune.pruning.session import Session

SAMPLES = {
    "llava": [Sample(9), Sample(16, ((48, 96), (48, 96)))],
    "llava_next": [Sample(9), Sample(16, ((96, 96), (96, 48)))],
}
Rows = list[list[float]]


def attention(**params: Any) -> tuple[str, dict[str, Any]]:
    return "encoder_attention", params


def scores(made: Any, batch: dict[str, torch.Tensor], criterion: Any, layer: int = 2) -> torch.Tensor:
    """A criterion's scores as a stage of a real run sees them, [B, V]."""
    seen: list[torch.Tensor] = []
    module: Any = prefill
    original = module.reduce

    def spy(planned: Any, view: Any, *rest: Any) -> Any:
        seen.append(evaluate(planned.picks[0].score, view))
        return original(planned, view, *rest)

    module.reduce = spy
    try:
        with Session(made, policy(stage(layer, "1/2", criterion))), torch.no_grad():
            made(**batch, use_cache=False)
    finally:
        module.reduce = original
    return seen[0]


def pictures(made: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the tower is given: every image, or every tile without those that fill up the batch."""
    pixels = batch["pixel_values"]
    if "image_sizes" not in batch:
        return pixels
    return torch.cat([p[:n] for p, n in zip(pixels, tile_counts(batch), strict=True)])


def tile_counts(batch: dict[str, torch.Tensor]) -> list[int]:
    return [5 if size == [96, 96] else 3 for size in batch["image_sizes"].tolist()]


def per_sample(batch: dict[str, torch.Tensor], samples: Sequence[Sample], rows: Rows) -> list[list[float]]:
    """Values per tower input and patch at each sample's visual tokens; a zero for each newline."""
    if "image_sizes" not in batch:
        images = rows
    else:
        images, start = [], 0
        for (height, width), count in zip(batch["image_sizes"].tolist(), tile_counts(batch), strict=True):
            images.append(packed(rows[start : start + count], height // 48, width // 48))
            start += count
    found, start = [], 0
    for sample in samples:
        found.append([v for image in images[start : start + len(sample.images)] for v in image])
        start += len(sample.images)
    return found


def packed(tiles: Rows, down: int, across: int) -> list[float]:
    """The overview, then the tiles as one picture of 6 x 6 patches each, and a zero after every row of patches."""
    values = list(tiles[0])
    for y in range(6 * down):
        for x in range(6 * across):
            values.append(tiles[1 + (y // 6) * across + x // 6][(y % 6) * 6 + x % 6])
        values.append(0.0)
    return values


def agree(found: torch.Tensor, expected: list[list[float]], tolerance: float = 2e-6) -> bool:
    return all(
        abs(float(found[b, i]) - v) <= tolerance * max(1, abs(v))
        for b, row in enumerate(expected)
        for i, v in enumerate(row)
    )


# ------------------------------------------------------------------------------------------------ the walk, in loops
Map = list[list[list[float]]]  # [heads][queries][keys]


def softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    parts = [math.exp(v - top) for v in row]
    return [p / sum(parts) for p in parts]


def maps(query: torch.Tensor, key: torch.Tensor, temperature: float, joined: bool) -> Map:
    """Softmax maps of one picture from q and k [T, heads, D]; joined: all heads side by side as one."""
    q, k = query.double().tolist(), key.double().tolist()
    if joined:
        q, k = ([[[v for head in t for v in head]] for t in x] for x in (q, k))
    scale = len(q[0][0]) ** -0.5 / temperature
    return [
        [softmax([scale * sum(a * b for a, b in zip(x[h], y[h], strict=True)) for y in k]) for x in q]
        for h in range(len(q[0]))
    ]


def end(
    full: Map,
    mean_row: list[list[float]],
    start: str,
    hops: int,
    gate: float | None,
    heads: str,
    cls: int,
    lengths: Sequence[float] = (),
    variance: Sequence[float] | None = None,
) -> Any:
    """Mass on every patch. mean_row[h]: the softmax row of head h's mean query; lengths: of what enters the block."""
    tokens = range(len(full[0]))
    if start == "query":
        mass = mean_row
    elif start == "cls":
        mass = [a[0] for a in full]
    elif start == "norm":
        whole = sum(lengths[cls:])
        mass = [[sum(lengths[i] / whole * a[i][j] for i in tokens if i >= cls) for j in tokens] for a in full]
    else:
        begin = [i for i in tokens if start == "all" or i >= cls]
        mass = [[sum(a[i][j] for i in begin) / len(begin) for j in tokens] for a in full]
    for _ in range(hops - 1):
        if gate is not None:
            held = meet(mass, heads, cls, variance)
            mean = sum(held[cls:]) / len(held[cls:])
            on = [i for i in tokens if i >= cls and held[i] > gate * mean]
            on = on or [max((i for i in tokens if i >= cls), key=lambda i: held[i])]
            mass = [[1 / len(on) if i in on else 0.0 for i in tokens] for _ in full]
        mass = [[sum(p[i] * a[i][j] for i in tokens) for j in tokens] for p, a in zip(mass, full, strict=True)]
    return meet(mass, heads, cls, variance)[cls:]


def meet(mass: list[list[float]], heads: str, cls: int, variance: Sequence[float] | None = None) -> list[float]:
    if variance is not None:
        spread = [statistics.pvariance([v * len(m[cls:]) / sum(m[cls:]) for v in m[cls:]]) for m in mass]
        inside = [m for m, s in zip(mass, spread, strict=True) if variance[0] <= s <= variance[1]]
        mass = inside or mass
    columns = [list(c) for c in zip(*mass, strict=True)]
    if heads == "top_half":
        order = sorted(range(len(mass)), key=lambda h: -sum(mass[h][cls:]))
        chosen = order[: max(1, len(mass) // 2)]
        return [sum(c[h] for h in chosen) / len(chosen) for c in columns]
    ways: dict[str, Any] = {
        "mean": lambda: [sum(c) / len(c) for c in columns],
        "joined": lambda: [c[0] for c in columns],
        "sum": lambda: [sum(c) for c in columns],
        "max": lambda: [max(c) for c in columns],
        "rms": lambda: [math.sqrt(sum(v * v for v in c) / len(c)) for c in columns],
    }
    return list(ways[heads]())


def projections(made: Any, seen: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k [pictures, T, heads, D] of a block of an untouched tower."""
    tower = made.model.vision_tower
    layer = getattr(tower, "vision_model", tower).encoder.layers[block]
    caught: dict[str, torch.Tensor] = {}
    handles = [
        getattr(layer.self_attn, n).register_forward_hook(lambda m, a, o, n=n: caught.update({n: o}))
        for n in ("q_proj", "k_proj")
    ]
    with torch.no_grad():
        tower(seen, return_dict=True)
    for handle in handles:
        handle.remove()
    heads = tower.config.num_attention_heads
    q, k = (caught[n].view(*caught[n].shape[:2], heads, -1) for n in ("q_proj", "k_proj"))
    return q, k


def expected_walks(made: Any, seen: torch.Tensor, block: int, cls: int = 1, **params: Any) -> Rows:
    """Ends of the walk per picture, from the model's own q and k."""
    options = {
        **{"from": "cls", "hops": 1, "gate": None, "heads": "mean", "temperature": 1.0, "head_variance": None},
        **params,
    }
    query, key = projections(made, seen, block)
    entering = entering_block(made, seen, block)
    found = []
    for q, k, x in zip(query.unbind(), key.unbind(), entering.unbind(), strict=True):
        joined = options["heads"] == "joined"
        full = maps(q, k, options["temperature"], joined)
        mean = maps(torch.cat([q.double().mean(0, keepdim=True)] * len(k)), k, options["temperature"], joined)
        row = [a[0] for a in mean]
        how = (options["from"], options["hops"], options["gate"], options["heads"])
        lengths = [math.sqrt(sum(v * v for v in token)) for token in x.double().tolist()]
        found.append(end(full, row, *how, cls, lengths, options["head_variance"]))
    return found


def entering_block(made: Any, seen: torch.Tensor, block: int) -> torch.Tensor:
    """Features [pictures, T, D] that enter a block of an untouched tower."""
    with torch.no_grad():
        states: torch.Tensor = made.model.vision_tower(seen, output_hidden_states=True, return_dict=True).hidden_states
    return states[block]


@cache
def siglip() -> Any:
    """A LLaVA whose tower has no class token."""
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=48, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=5,
        vision_feature_layer=-2,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu_pytorch_tanh",
    )
    torch.manual_seed(2)
    made = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "proj" in name or "linear" in name:
                weight.mul_(4)
    return made
