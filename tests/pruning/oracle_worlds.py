"""Models and what they compute by themselves, for the oracles: no hook of the engine, no padding, eager attention.

A world is a batch of samples of different length for a model, and every sample alone. `seen` runs one sample through
the untouched model with eager attention and hands over its maps, states and projections as float64 arrays.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pruning_support
import test_pruning_catalog
import tiny_families
import torch
from pruning_support import Sample
from transformers import DynamicCache

REFERENCE = Path(__file__).parents[2] / "examples" / "reference_vlm" / "checkpoint"
QUESTIONS = (
    ("what color is the circle?", "read the number."),
    ("is there a red star?",),
    ("how many stars are there?", "where is the number?"),
)
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class World:
    """`made` is what the engine gets, `plain` the same weights with eager attention; `batch` is `singles` padded."""

    made: Any
    plain: Any
    batch: Batch
    singles: list[Batch]

    @property
    def image_token(self) -> int:
        return int(self.made.config.image_token_id)

    def counted(self) -> Batch:
        """The batch with positions from each row's first token, as `generate` counts them (M-RoPE does by itself)."""
        if "image_grid_thw" in self.batch:
            return self.batch
        positions = (self.batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return {**self.batch, "position_ids": positions}


@cache
def world(name: str, seed: int = 1) -> World:
    """`reference`, `llava`, `llava_next`, `deep` (32 layers, 24 blocks) or one of the tiny families."""
    if name == "reference":
        return _reference(seed)
    if name == "deep":
        samples = [Sample(12), Sample(7), Sample(16)]
        made = test_pruning_catalog.deep()
        plain = copy.deepcopy(made)
        plain.set_attn_implementation("eager")
        batch = pruning_support.inputs(made, samples, seed)
        return World(made, plain, batch, [pruning_support.single(batch, samples, i) for i in range(len(samples))])
    if name in ("llava", "llava_next"):
        samples = [Sample(9), Sample(16, ((48, 96), (48, 96))), Sample(5)]
        if name == "llava_next":
            samples = [Sample(7), Sample(12, ((96, 96),))]
        made = pruning_support.model(name)
        batch = pruning_support.inputs(made, samples, seed)
        singles = [pruning_support.single(batch, samples, i) for i in range(len(samples))]
        return World(made, pruning_support.model(name, "eager"), batch, singles)
    tiny = tiny_families.TINY[name]
    rows = tiny.rows(tiny.ragged, seed)
    singles = [tiny_families.together([row]) for row in rows]
    made, plain = tiny_families.model(name), tiny_families.model(name, "eager")
    return World(made, plain, tiny_families.together(rows), singles)


def _reference(seed: int) -> World:
    """The shipped model on pictures of a few coloured shapes, one question each."""
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(str(REFERENCE), backend="pil")
    asked = QUESTIONS[(seed - 1) % len(QUESTIONS)]

    def read(questions: Sequence[str]) -> Batch:
        prompts, pictures = [], []
        for question in questions:
            content = [{"type": "image"}, {"type": "text", "text": question}]
            message = [{"role": "user", "content": content}]
            prompts.append(processor.apply_chat_template(message, add_generation_prompt=True))
            pictures.append(picture(seed * 10 + asked.index(question)))
        found = processor(images=pictures, text=prompts, return_tensors="pt", padding=True, padding_side="left")
        return {k: found[k] for k in ("input_ids", "attention_mask", "pixel_values")}

    return World(_checkpoint("sdpa"), _checkpoint("eager"), read(asked), [read([q]) for q in asked])


@cache
def _checkpoint(attention: str) -> Any:
    from transformers import AutoModelForImageTextToText

    kind: Any = AutoModelForImageTextToText
    return kind.from_pretrained(str(REFERENCE), dtype="float32", attn_implementation=attention).eval()


def picture(seed: int) -> Any:
    """Shapes on noise, 96 x 96: what the reference model's processor neither scales nor cuts."""
    from PIL import Image, ImageDraw

    dice = np.random.Generator(np.random.PCG64(seed))
    noise = dice.integers(150, 190, size=(96, 96, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    draw = ImageDraw.Draw(picture)
    for _ in range(4):
        x, y, size = (int(v) for v in dice.integers((2, 2, 12), (66, 66, 28)))
        colour = tuple(int(v) for v in dice.integers(0, 256, size=3))
        (draw.ellipse if size % 2 else draw.rectangle)((x, y, x + size, y + size), fill=colour)
    return picture


class Seen:
    """One sample in the untouched model. n positions, `visual` and `text` (after the last visual one) among them.

    maps[l] [H, n, n]: attention of decoder layer l. hidden[l] [n, d]: what enters it; hidden[0] are the embeddings.
    queries[l], keys[l] [heads, n, D]: before the rotation; cached[l]: the keys as the cache holds them.
    modules[l]: (input, output) [n, d] of its attention and of its MLP. projector_input [rows, e]: what enters the
    projector, where there is one of two layers. `gone`: columns whose keys are masked from a layer on.
    """

    def __init__(self, place: World, number: int, gone: Mapping[int, Sequence[int]] | None = None) -> None:
        self.batch, self.made, self.gone = place.singles[number], place.plain, gone or {}
        ids = self.batch["input_ids"][0].tolist()
        self.visual = [c for c, i in enumerate(ids) if i == place.image_token]
        self.text = list(range(self.visual[-1] + 1, len(ids)))
        self.all = list(range(len(ids)))
        self.queries: list[Any] = []
        self.keys: list[Any] = []
        self.modules: list[list[tuple[Any, Any]]] = []
        self.hidden: list[Any] = []
        self.projector_input: Any = None
        self._run()

    def _run(self) -> None:
        layers = self.made.model.language_model.layers
        handles = []
        for number, layer in enumerate(layers):
            self.modules.append([])
            attention = layer.self_attn
            width = attention.head_dim
            handles.append(layer.register_forward_pre_hook(lambda m, a: self.hidden.append(array(a[0][0]))))
            handles.append(layer.register_forward_pre_hook(self._without(number), with_kwargs=True))
            for kind, found in (("q", self.queries), ("k", self.keys)):
                source = getattr(attention, f"{kind}_norm", None) or getattr(attention, f"{kind}_proj")

                def take(m: Any, a: Any, out: Any, found: Any = found, width: int = width) -> None:
                    found.append(array(_by_head(out[0], width)))

                handles.append(source.register_forward_hook(take))
            for module in (attention, layer.mlp):

                def passed(m: Any, args: Any, kwargs: Any, out: Any, number: int = number) -> None:
                    before = args[0] if args else kwargs["hidden_states"]
                    after = out[0] if isinstance(out, tuple) else out
                    self.modules[number].append((array(before[0]), array(after[0])))

                handles.append(module.register_forward_hook(passed, with_kwargs=True))
        projector = getattr(self.made.model, "multi_modal_projector", None)
        if projector is not None:

            def entered(m: Any, a: Any) -> None:
                self.projector_input = array(a[0].flatten(0, -2))

            handles.append(projector.register_forward_pre_hook(entered))
        with torch.no_grad():  # a cache of its own keeps all keys, also behind a sliding window
            out = self.made(**self.batch, output_attentions=True, past_key_values=DynamicCache())
        for handle in handles:
            handle.remove()
        self.maps = [array(a[0]) for a in out.attentions]
        self.cached = [array(layer.keys[0]) for layer in out.past_key_values.layers]

    def _without(self, number: int) -> Any:
        """Masks the keys of all that is gone before layer `number`."""
        columns = [c for layer, gone in self.gone.items() if layer <= number for c in gone]

        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            if not columns:
                return None
            mask = kwargs["attention_mask"].clone()
            mask[..., columns] = torch.finfo(mask.dtype).min
            return args, {**kwargs, "attention_mask": mask}

        return hook

    def states(self, layer: int, positions: Sequence[int]) -> Any:
        return self.hidden[layer][list(positions)]


@cache
def seen(name: str, number: int, seed: int = 1) -> Seen:
    return Seen(world(name, seed), number)


def array(values: torch.Tensor) -> Any:
    return values.detach().double().numpy()


def _by_head(states: torch.Tensor, width: int) -> torch.Tensor:
    """[n, H D] or [n, H, D] -> [H, n, D]."""
    return states.reshape(len(states), -1, width).transpose(0, 1)


def worst(found: Sequence[float], expected: Sequence[float]) -> float:
    """The largest difference, of the largest expected value; of 1 where all of these are 0."""
    scale = max(abs(e) for e in expected) or 1.0
    return max(abs(f - e) for f, e in zip(found, expected, strict=True)) / scale


def shares(values: Sequence[float]) -> list[float]:
    """Scaled to sum 1: what two formulas that differ by a factor have in common."""
    return [v / sum(values) for v in values]
