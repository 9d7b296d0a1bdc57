"""The model: a LLaVA in miniature, built only from transformers classes, and what feeds it.

CLIP tower with CLS (5 layers, the last but one is read, as LLaVA does), two-layer projector, Llama decoder of 8 layers
with grouped-query attention. Nothing here is special to training except the packed forward at the end.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scenes import CANVAS, COLOR_CLASSES, DIGIT_CLASSES, GRID, KIND_CLASSES, PATCH, PATCHES
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from vocabulary import BOS, CHAT_TEMPLATE, COLORS, EOS, HEAD, IMAGE, PAD, SHAPES, TOKEN_ID, VOCABULARY

PIXEL_MEAN, PIXEL_STD = 0.45, 0.25
WIDTH, HEADS = 128, 4


def build_config() -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=5,
        num_attention_heads=HEADS,
        image_size=CANVAS,
        patch_size=PATCH,
        projection_dim=WIDTH,
        hidden_act="relu",  # a seventh of the tower's time was in gelu
    )
    text = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=8,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.05,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        rms_norm_eps=1e-5,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        image_seq_length=PATCHES,
    )


def build_model() -> LlavaForConditionalGeneration:
    config = build_config()
    config._attn_implementation = "sdpa"
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, max_new_tokens=6, do_sample=False
    )
    return model


def build_processor() -> LlavaProcessor:
    """The processor whose chat template yields exactly the layout of `vocabulary.py`; needs no torchvision."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = Tokenizer(models.WordLevel(TOKEN_ID, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        model_max_length=512,
        padding_side="left",
    )
    side = {"height": CANVAS, "width": CANVAS}
    images = CLIPImageProcessorPil(
        size=side, crop_size=side, do_center_crop=False, image_mean=[PIXEL_MEAN] * 3, image_std=[PIXEL_STD] * 3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def to_pixel_values(pixels: NDArray[np.uint8]) -> Tensor:
    """What the processor does to a picture of the right size."""
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD


class ReadingHeads(nn.Module):
    """Training-only heads that make the tower name what it sees: per patch, and for the whole picture from CLS."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(WIDTH, KIND_CLASSES + COLOR_CLASSES + DIGIT_CLASSES)
        self.picture = nn.Linear(WIDTH, len(SHAPES) + len(COLORS) + 10)


def whiten_patches(model: LlavaForConditionalGeneration, pixels: NDArray[np.uint8]) -> None:
    """Start the tower from whitened patches and 2-D sine positions instead of noise.

    The rotation after the whitening gives every unit some of the signal. The tower then spends its few minutes on
    reading and not on conditioning its input.
    """
    embeddings: Any = model.model.vision_tower.embeddings
    rows = to_pixel_values(pixels).unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    rows = rows.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * PATCH * PATCH)
    mean = rows.mean(0)
    variances, axes = torch.linalg.eigh(torch.cov(rows.T))
    axes = axes[:, -WIDTH:] / (variances[-WIDTH:] + 0.01).sqrt()
    weight = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0] @ axes.T
    frequencies = 30 ** (-torch.arange(WIDTH // 4) / (WIDTH // 4))
    phases = torch.arange(GRID)[:, None] * frequencies
    waves = torch.cat([phases.sin(), phases.cos()], 1)
    positions = torch.cat([waves.repeat_interleave(GRID, 0), waves.repeat(GRID, 1)], 1)
    with torch.no_grad():
        embeddings.patch_embedding.weight.copy_(weight.view(WIDTH, 3, PATCH, PATCH))
        embeddings.position_embedding.weight[1:] = 0.7 * positions - weight @ mean


def look(model: LlavaForConditionalGeneration, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """The layer LLaVA reads, CLS first, and the pooled CLS of the last layer."""
    seen = model.model.vision_tower(pixel_values=pixel_values, output_hidden_states=True)
    return seen.hidden_states[-2], seen.pooler_output


def project(model: LlavaForConditionalGeneration, features: Tensor) -> Tensor:
    """Visual tokens as the language model sees them; CLS is dropped."""
    projected: Tensor = model.model.multi_modal_projector(features[:, 1:])
    return projected


def packed_hidden(
    model: LlavaForConditionalGeneration,
    visual: Tensor,
    tokens: Tensor,
    positions: Tensor,
    segments: Tensor,
    kept: Tensor | None = None,
    hidden_from: Tensor | None = None,
) -> Tensor:
    """Last hidden states of the packed text (see `batches.Packed`).

    `kept` (pictures, k) picks the visual tokens that stay, ascending, with their original positions; of these, those
    marked in `hidden_from` (pictures, k) are invisible to everything, so one tensor shape serves many budgets.
    """
    language = model.model.language_model
    pictures, length = tokens.shape
    places = torch.arange(PATCHES).expand(pictures, -1)
    if kept is not None:
        visual = visual.gather(1, kept[..., None].expand(-1, -1, visual.shape[-1]))
        places = places.gather(1, kept)
    head = language.embed_tokens(torch.tensor(HEAD)).expand(pictures, -1, -1)
    inputs = torch.cat([head, visual, language.embed_tokens(tokens)], 1)
    ids = torch.cat([torch.arange(len(HEAD)).expand(pictures, -1), places + len(HEAD), positions], 1)
    prefix = len(HEAD) + visual.shape[1]
    group = torch.cat([torch.zeros(pictures, prefix, dtype=segments.dtype), segments], 1)
    mask = (group[:, :, None] == group[:, None, :]) | (group[:, None, :] == 0)
    mask = mask & torch.ones(prefix + length, prefix + length, dtype=torch.bool).tril()
    if hidden_from is not None:
        gone = torch.zeros(pictures, prefix + length, dtype=torch.bool)
        gone[:, len(HEAD) : prefix] = hidden_from
        mask = mask & ~gone[:, None, :]
    hidden: Tensor = language(
        inputs_embeds=inputs, attention_mask=mask[:, None], position_ids=ids, use_cache=False
    ).last_hidden_state
    return hidden[:, prefix:]
