"""Tiny random LLaVAs, hand-made inputs and an independent reference for the engine's tests."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import torch
from tiny_families import IMAGE as IMAGE
from tiny_families import LAYERS as LAYERS
from tiny_families import SIDE, Size, llava, llava_next, tiles
from tiny_families import Sample as Sample

from autoprune.policy.resolved import Keep, Part, ResolvedPick, ResolvedPolicy, ResolvedStage
from autoprune.pruning.record import Run

__all__ = [  # what tests take from here, the tiny families' own names among it
    "IMAGE", "LAYERS", "PATCHES", "SIDE", "MaskedReference", "Sample", "Size", "difference", "generate", "inputs",
    "llava", "llava_next", "model", "next_tokens", "part", "policy", "single", "stage", "tiles",
]  # fmt: skip
PATCHES = (SIDE // 8) ** 2


@cache
def model(family: str = "llava", attention: str = "sdpa", strategy: str = "default") -> Any:
    torch.manual_seed(0)
    made = (llava if family == "llava" else llava_next)(attention, strategy)
    with torch.no_grad():
        for name, weight in made.named_parameters():  # larger weights, so that attention is not flat
            if "proj" in name or "linear" in name:
                weight.mul_(4)
    return made.eval()


def inputs(made: Any, samples: Sequence[Sample], seed: int = 1) -> dict[str, torch.Tensor]:
    """A left-padded batch."""
    generator = torch.Generator().manual_seed(seed)
    following = made.config.model_type == "llava_next"
    rows, pixels, sizes = [], [], []
    for sample in samples:
        text = torch.randint(10, 120, (sample.text,), generator=generator)
        pieces = [text[:3]]
        for i, size in enumerate(sample.images):
            picture = torch.randn(5 if following else 1, 3, SIDE, SIDE, generator=generator)
            count = PATCHES
            if following:
                picture[tiles(size) :] = 0
                count = next_tokens(made, picture, size)
                sizes.append(size)
            pixels.append(picture if following else picture[0])
            pieces += [torch.full((count,), IMAGE), text[3 + i : 4 + i]]
        pieces.append(text[3 + len(sample.images) :])
        rows.append(torch.cat(pieces))
    width = max(map(len, rows))
    batch = {"input_ids": torch.zeros(len(rows), width, dtype=torch.long)}
    batch["attention_mask"] = torch.zeros_like(batch["input_ids"])
    for i, row in enumerate(rows):
        batch["input_ids"][i, width - len(row) :] = row
        batch["attention_mask"][i, width - len(row) :] = 1
    if pixels:
        batch["pixel_values"] = torch.stack(pixels)
    if sizes:
        batch["image_sizes"] = torch.tensor(sizes)
    return batch


def next_tokens(made: Any, picture: torch.Tensor, size: Size) -> int:
    with torch.no_grad():
        found = made.model.get_image_features(picture[None], image_sizes=torch.tensor([size]), return_dict=True)
    return int(found.pooler_output[0].shape[0])


def single(batch: dict[str, torch.Tensor], samples: Sequence[Sample], i: int) -> dict[str, torch.Tensor]:
    """Sample i alone, unpadded."""
    real = batch["attention_mask"][i].bool()
    alone = {k: batch[k][i : i + 1, real] for k in ("input_ids", "attention_mask")}
    start = sum(len(s.images) for s in samples[:i])
    for key in ("pixel_values", "image_sizes"):
        if key in batch and samples[i].images:
            alone[key] = batch[key][start : start + len(samples[i].images)]
    return alone


def stage(
    layer: int,
    keep: str | int | Fraction,
    score: str | tuple[str, dict[str, Any]] | None = "random",
    select: str | tuple[str, dict[str, Any]] = "top",
    merge: str | tuple[str, dict[str, Any]] = "drop",
    **options: Any,
) -> ResolvedStage:
    kind = options.pop("kind", "fraction")
    site = options.pop("site", "llm")
    pick = ResolvedPick(None if score is None else part(score), part(select))
    return ResolvedStage(site, layer, Keep(kind, Fraction(keep)), (pick,), part(merge), **options)


def part(use: str | tuple[str, dict[str, Any]]) -> Part:
    return Part(use) if isinstance(use, str) else Part(*use)


def policy(*stages: ResolvedStage) -> ResolvedPolicy:
    return ResolvedPolicy(tuple(stages), LAYERS)


def generate(made: Any, batch: dict[str, torch.Tensor], steps: int = 9, **options: Any) -> Any:
    settings = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True, **options}
    with torch.no_grad():
        return made.generate(**batch, max_new_tokens=steps, min_new_tokens=steps, **settings)


def difference(a: Any, b: Any) -> float:
    """Largest difference of logits over all steps (prefill and decode)."""
    return max(float((p - q).abs().max()) for p, q in zip(a.logits, b.logits, strict=True))


class MaskedReference:
    """The untouched model in which, at every layer, the keys of tokens that a recorded run dropped are masked out."""

    def __init__(self, made: Any, run: Run) -> None:
        self.layers = made.model.language_model.layers
        self.run = run
        self.handles: list[Any] = []

    def __enter__(self) -> MaskedReference:
        for number, layer in enumerate(self.layers):
            hook = self._hook(number)
            self.handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, number: int) -> Any:
        index, valid = self.run.index(number)
        logical = self.run.layouts[number].logical

        def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            hidden, past, mask = args[0], kwargs.get("past_key_values"), kwargs.get("attention_mask")
            queries = hidden.shape[1]
            before = 0 if past is None or len(past.layers) <= number else past.layers[number].get_seq_length()
            keys = before + queries
            alive = torch.zeros(hidden.shape[0], keys, dtype=torch.bool)
            for b in range(hidden.shape[0]):
                columns = index[b] if valid is None else index[b][valid[b]]
                alive[b, columns] = True
            alive[:, logical:] = True
            if mask is None:
                mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]
            if mask.dtype == torch.bool:
                mask = mask & alive[:, None, None]
            else:
                mask = mask.masked_fill(~alive[:, None, None], torch.finfo(mask.dtype).min)
            return args, {**kwargs, "attention_mask": mask}

        return hook
