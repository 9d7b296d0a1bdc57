"""Families in miniature: random models and hand-made inputs, for every room's tests.

Every family must pass what `pruning/family_checks.py` holds. `tiny_checkpoints.py` saves these models with their
processors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLTextConfig,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLTextConfig,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLTextConfig,
    SiglipVisionConfig,
)
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)

IMAGE, VIDEO, BEGIN, END, VOCABULARY = 5, 6, 7, 8, 128
LAYERS, SIDE, WINDOW = 6, 48, 24
SMALL = 4  # patch side where several patches become one token
PINPOINTS = [[48, 96], [96, 48], [96, 96]]
Size = tuple[int, int]
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Sample:
    """One prompt: the sizes of its images (LLaVA ignores them) and its number of text tokens."""

    text: int
    images: tuple[Size, ...] = ((48, 96),)


@dataclass(frozen=True)
class Row:
    """One sample: ids and what else goes with each token, and its vision inputs."""

    tokens: Batch
    vision: Batch


@dataclass(frozen=True)
class Tiny:
    """A family. `build` makes its model for an attention implementation. `see` makes a sample's vision inputs from the
    sizes of its images and says how many visual tokens each image has. `types` names the input that marks them."""

    name: str
    build: Callable[[str], Any]
    see: Callable[[Any, Sequence[Size], torch.Generator], tuple[Batch, list[int]]]
    ragged: tuple[Sample, ...]
    odd: tuple[Sample, ...]  # several images with text between them, a sample without an image
    types: str | None = None

    def rows(self, samples: Sequence[Sample], seed: int = 1) -> list[Row]:
        return [self._row(sample, torch.Generator().manual_seed(seed + i)) for i, sample in enumerate(samples)]

    def _row(self, sample: Sample, generator: torch.Generator) -> Row:
        text = torch.randint(10, 120, (sample.text,), generator=generator)
        vision, counts = self.see(model(self.name), sample.images, generator) if sample.images else ({}, [])
        pieces = [text[:3]]
        for i, count in enumerate(counts):
            marked = torch.full((count + 2,), IMAGE)
            marked[0], marked[-1] = BEGIN, END
            pieces += [marked, text[3 + i : 4 + i]]
        ids = torch.cat([*pieces, text[3 + len(counts) :]])
        tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.types is not None:
            tokens[self.types] = (ids == IMAGE).long()
        return Row(tokens, vision)


def together(rows: Sequence[Row]) -> Batch:
    """A left-padded batch; missing tiles are zeros, as processors pad them."""
    width = max(len(r.tokens["input_ids"]) for r in rows)
    pad = torch.nn.functional.pad
    batch = {k: torch.stack([pad(r.tokens[k], (width - len(r.tokens[k]), 0)) for r in rows]) for k in rows[0].tokens}
    seen = [r.vision for r in rows if r.vision]
    for name in seen[0] if seen else ():
        values = [v[name] for v in seen]
        if values[0].ndim == 5:
            most = max(v.shape[1] for v in values)
            values = [pad(v, (0,) * 7 + (most - v.shape[1],)) for v in values]
        batch[name] = torch.cat(values)
    return batch


@cache
def model(name: str, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    made = TINY[name].build(attention)
    with torch.no_grad():
        for key, weight in made.named_parameters():  # larger weights, so that attention is not flat
            if "mm_input_projection" in key:
                weight.normal_(std=0.5)
            elif "proj" in key or "linear" in key:
                weight.mul_(4)
            elif "k_norm" in key and name == "qwen3_vl":  # with equal weights all keys are equally long
                weight.copy_(torch.linspace(0.5, 2, len(weight)))
            elif "cls_token" in key or "position_embeddings" in key:
                weight.normal_(std=0.5)
    return made.eval()


def text(kind: Any, **options: Any) -> Any:
    return kind(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **options,
    )


def tower(kind: Any, patch: int, side: Any = SIDE, **options: Any) -> Any:
    return kind(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=side,
        patch_size=patch,
        **options,
    )


def llava(attention: str, strategy: str = "default") -> Any:
    config = LlavaConfig(
        vision_config=tower(CLIPVisionConfig, 8),
        text_config=text(LlamaConfig),
        image_token_index=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy=strategy,
        image_seq_length=(SIDE // 8) ** 2,
    )
    return LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)


def see_llava(made: Any, sizes: Sequence[Size], generator: torch.Generator) -> tuple[Batch, list[int]]:
    """Every picture has the tower's size."""
    count = (SIDE // 8) ** 2 + (made.config.vision_feature_select_strategy == "full")
    return {"pixel_values": torch.randn(len(sizes), 3, SIDE, SIDE, generator=generator)}, [count] * len(sizes)


def llava_next(attention: str, strategy: str = "default") -> Any:
    config = LlavaNextConfig(
        vision_config=tower(CLIPVisionConfig, 8),
        text_config=text(LlamaConfig),
        image_token_index=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy=strategy,
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=(SIDE // 8) ** 2,
    )
    return LlavaNextForConditionalGeneration._from_config(config, attn_implementation=attention)


def tiles(size: Size) -> int:
    """How many tower inputs LLaVA-NeXT makes of a picture that fits one of `PINPOINTS`."""
    return 5 if size == (96, 96) else 3


def see_llava_next(made: Any, sizes: Sequence[Size], generator: torch.Generator) -> tuple[Batch, list[int]]:
    pixels = torch.randn(len(sizes), max(map(tiles, sizes)), 3, SIDE, SIDE, generator=generator)
    for picture, size in zip(pixels, sizes, strict=True):
        picture[tiles(size) :] = 0
    vision = {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}
    with torch.no_grad():
        features = made.model.get_image_features(**vision, return_dict=True).pooler_output
    return vision, [len(f) for f in features]


def onevision(attention: str, aspect: str = "anyres_max_9") -> Any:
    config = LlavaOnevisionConfig(
        vision_config=tower(SiglipVisionConfig, 8, vision_use_head=False),
        text_config=text(Qwen2Config),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=aspect,
    )
    return LlavaOnevisionForConditionalGeneration._from_config(config, attn_implementation=attention)


def see_onevision(made: Any, sizes: Sequence[Size], generator: torch.Generator) -> tuple[Batch, list[int]]:
    """The only image of a sample is cut into tiles; several are one tile each."""
    cut = tiles(sizes[0]) if len(sizes) == 1 else 1
    vision = {
        "pixel_values": torch.randn(len(sizes), cut, 3, SIDE, SIDE, generator=generator),
        "image_sizes": torch.tensor(sizes),
        "batch_num_images": torch.tensor([len(sizes)]),
    }
    with torch.no_grad():
        features = made.model.get_image_features(**vision, return_dict=True).pooler_output
    return vision, [len(f) for f in features]


def internvl(attention: str, kind: Any = Qwen2Config) -> Any:
    config = InternVLConfig(
        vision_config=tower(InternVLVisionConfig, SMALL, [SIDE, SIDE]),
        text_config=text(kind),
        image_token_id=IMAGE,
        image_seq_length=(SIDE // SMALL // 2) ** 2,
    )
    return InternVLForConditionalGeneration._from_config(config, attn_implementation=attention)


def see_internvl(made: Any, sizes: Sequence[Size], generator: torch.Generator) -> tuple[Batch, list[int]]:
    """Tiles of one image follow each other, a thumbnail last where there are several."""
    grids = [(high // SIDE) * (wide // SIDE) for high, wide in sizes]
    tiles = [n + 1 if n > 1 else 1 for n in grids]
    pixels = torch.randn(sum(tiles), 3, SIDE, SIDE, generator=generator)
    return {"pixel_values": pixels}, [n * made.config.image_seq_length for n in tiles]


def gemma3(attention: str) -> Any:
    layers = ["sliding_attention", "full_attention"] * (LAYERS // 2)
    config = Gemma3Config(
        vision_config=tower(SiglipVisionConfig, SMALL, vision_use_head=False),
        text_config=text(
            Gemma3TextConfig, head_dim=16, query_pre_attn_scalar=16, sliding_window=WINDOW, layer_types=layers
        ),
        mm_tokens_per_image=(SIDE // SMALL // 2) ** 2,
        image_token_index=IMAGE,
        boi_token_index=BEGIN,
        eoi_token_index=END,
    )
    return Gemma3ForConditionalGeneration._from_config(config, attn_implementation=attention)


def see_gemma3(made: Any, sizes: Sequence[Size], generator: torch.Generator) -> tuple[Batch, list[int]]:
    pixels = torch.randn(len(sizes), 3, SIDE, SIDE, generator=generator)
    return {"pixel_values": pixels}, [made.config.mm_tokens_per_image] * len(sizes)


AXES = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
MARKS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": BEGIN, "vision_end_token_id": END}
TOWER = {  # of Qwen2.5-VL and Qwen3-VL
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "patch_size": SMALL,
    "out_hidden_size": 64,
}


def qwen2(attention: str) -> Any:
    vision = {"depth": 3, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 2, "patch_size": SMALL}
    config = Qwen2VLConfig(vision_config=vision, text_config=text(Qwen2VLTextConfig, rope_parameters=AXES), **MARKS)
    return Qwen2VLForConditionalGeneration._from_config(config, attn_implementation=attention)


def qwen2_5(attention: str) -> Any:
    """Windows of 4 x 4 patches, and one block in the middle that sees the whole image."""
    vision = {**TOWER, "window_size": 16, "fullatt_block_indexes": [1]}
    config = Qwen2_5_VLConfig(
        vision_config=vision, text_config=text(Qwen2_5_VLTextConfig, rope_parameters=AXES), **MARKS
    )
    return Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation=attention)


def qwen3(attention: str) -> Any:
    vision = {**TOWER, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1, 2]}
    decoder = text(Qwen3VLTextConfig, head_dim=16, rope_parameters={**AXES, "mrope_interleaved": True})
    config = Qwen3VLConfig(vision_config=vision, text_config=decoder, **MARKS)
    return Qwen3VLForConditionalGeneration._from_config(config, attn_implementation=attention)


def see_qwen(made: Any, sizes: Sequence[Size], generator: torch.Generator) -> tuple[Batch, list[int]]:
    """The patches of all images in one tensor; four of them are a token."""
    grids = [(1, high // SMALL, wide // SMALL) for high, wide in sizes]
    pixels = torch.randn(sum(high * wide for _, high, wide in grids), 3 * 2 * SMALL**2, generator=generator)
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor(grids)}, [h * w // 4 for _, h, w in grids]


ONE, WIDE, HIGH, LARGE = (48, 48), (48, 96), (96, 48), (96, 96)
TILED = (Sample(9, (WIDE,)), Sample(15, (LARGE,)), Sample(12, (HIGH,)))
ODD = (Sample(16, (WIDE, LARGE)), Sample(12, ()), Sample(9, (HIGH,)))
FREE = (Sample(9, ((24, 40),)), Sample(15, ((32, 32),)), Sample(12, ((16, 24),)))  # windows do not fit everywhere
FREE_ODD = (Sample(16, ((24, 16), (32, 40))), Sample(12, ()), Sample(9, ((40, 24),)))
TYPES = "mm_token_type_ids"
TINY = {
    tiny.name: tiny
    for tiny in (
        Tiny("llava", llava, see_llava, (Sample(9, (ONE,)), Sample(15, (ONE, ONE))), ODD),
        Tiny("llava_next", llava_next, see_llava_next, TILED, ODD),
        Tiny("llava_onevision", onevision, see_onevision, TILED, ODD),
        Tiny("onevision_shrunk", lambda a: onevision(a, "anyres_max_1"), see_onevision, TILED, ODD),
        Tiny("internvl", internvl, see_internvl, TILED, ODD),
        Tiny("gemma3", gemma3, see_gemma3, (Sample(9, (ONE,)), Sample(15, (ONE, ONE))), ODD, "token_type_ids"),
        Tiny("gemma3_untyped", gemma3, see_gemma3, (Sample(9, (ONE,)), Sample(15, (ONE, ONE))), ODD),
        Tiny("internvl_llama", lambda a: internvl(a, LlamaConfig), see_internvl, TILED, ODD),
        Tiny("internvl_qwen3", lambda a: internvl(a, Qwen3Config), see_internvl, TILED, ODD),
        Tiny("qwen2_vl", qwen2, see_qwen, FREE, FREE_ODD, TYPES),
        Tiny("qwen2_5_vl", qwen2_5, see_qwen, FREE, FREE_ODD, TYPES),
        Tiny("qwen3_vl", qwen3, see_qwen, FREE, FREE_ODD, TYPES),
    )
}
