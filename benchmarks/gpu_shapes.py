"""Models with the shapes of LLaVA-1.5-7B and Qwen2.5-VL-7B and random weights, and questions for them: what a trial
costs hangs on shapes alone. `tiny`: the same families in miniature, for a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.calibration.encoding import Row
from autoprune.measures.loading import Loaded
from autoprune.models.family import family_of, geometry_of

if TYPE_CHECKING:
    import torch

SEED = 17
PROMPT, ANSWER = 48, 16  # text tokens of a question, and of its answer
SPECIAL = 16  # ids below are no words


@dataclass(frozen=True)
class Shape:
    """A family at its published size. `tokens`: visual tokens of a picture; `see`: random vision inputs of one."""

    name: str
    config: Callable[[bool], Any]
    tokens: Callable[[Any], int]
    see: Callable[[Any, torch.Generator], dict[str, torch.Tensor]]
    types: str | None = None


def _llava(tiny: bool) -> Any:
    """llava-hf/llava-1.5-7b-hf: CLIP ViT-L/14 at 336 pixels and Vicuna 7B."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    text = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "num_attention_heads": 4}
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            **(small if tiny else vision), image_size=112 if tiny else 336, patch_size=14, projection_dim=768
        ),
        text_config=LlamaConfig(
            **(small if tiny else text), vocab_size=32064, max_position_embeddings=4096, rms_norm_eps=1e-5
        ),
        image_token_index=32000,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=64 if tiny else 576,
    )


def _see_llava(config: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
    import torch

    side = config.vision_config.image_size
    return {"pixel_values": torch.randn(1, 3, side, side, generator=generator)}


def _qwen(tiny: bool) -> Any:
    """Qwen/Qwen2.5-VL-7B-Instruct."""
    from transformers import Qwen2_5_VLConfig

    vision: Mapping[str, Any] = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    text: Mapping[str, Any] = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
    }
    if tiny:
        vision = {**vision, "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
        vision = {**vision, "out_hidden_size": 64, "fullatt_block_indexes": [1]}
        text = {**text, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8}
        text = {**text, "num_attention_heads": 4, "num_key_value_heads": 2}
    sections = [2, 3, 3] if tiny else [16, 24, 24]
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6}
    return Qwen2_5_VLConfig(
        vision_config={**vision, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2},
        text_config={**text, "vocab_size": 152064, "rope_parameters": rope},
        image_token_id=151655,
        video_token_id=151656,
        vision_start_token_id=151652,
        vision_end_token_id=151653,
    )


def _qwen_side(config: Any) -> int:
    """Patches along a side of the picture: 672 pixels, as many tokens as LLaVA has."""
    return 48 if config.text_config.hidden_size > 64 else 16


def _see_qwen(config: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
    import torch

    side, patch = _qwen_side(config), config.vision_config.patch_size
    pixels = torch.randn(side * side, 3 * 2 * patch**2, generator=generator)
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, side, side]])}


SHAPES = (
    Shape("LLaVA-1.5-7B", _llava, lambda config: int(config.image_seq_length), _see_llava),
    Shape("Qwen2.5-VL-7B", _qwen, lambda config: _qwen_side(config) ** 2 // 4, _see_qwen, "mm_token_type_ids"),
)


def build(shape: Shape, device: str, tiny: bool) -> Loaded:
    """The model on the device, in bfloat16 (tiny: float32)."""
    import torch
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(SEED)
    config, dtype = shape.config(tiny), torch.float32 if tiny else torch.bfloat16
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    document = model.config.to_dict()
    family = family_of(document)
    return Loaded(model.eval().requires_grad_(False), None, family, geometry_of(document), (2,), 0, dtype)


def questions(shape: Shape, loaded: Loaded, count: int) -> list[Row]:
    """Random pictures and words: a picture, text after it, an answer."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    config = loaded.model.config
    visual = shape.tokens(config)
    rows = []
    for number in range(count):
        words = torch.randint(SPECIAL, 30000, (PROMPT + ANSWER,), generator=generator)
        marks = torch.full((visual,), loaded.image_token)
        ids = torch.cat([words[:4], marks, words[4:PROMPT]])
        tokens = {"input_ids": ids}
        if shape.types is not None:
            tokens[shape.types] = (ids == loaded.image_token).long()
        vision = shape.see(config, generator)
        vision["pixel_values"] = vision["pixel_values"].to(loaded.dtype)
        rows.append(Row(str(number), tokens, vision, tuple(words[PROMPT:].tolist()), visual, 1))
    return rows
