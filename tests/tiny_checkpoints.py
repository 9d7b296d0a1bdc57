"""The models of `tiny_families.py` as checkpoints: saved with the processor class of their family, loaded by path.

Nothing is downloaded. The tokenizer's ids are those of the tiny models, so that one call saves any family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import tiny_families
from tiny_families import PINPOINTS, SIDE, SMALL, VOCABULARY
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    GotOcr2ImageProcessorPil,
    InternVLProcessor,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
)
from transformers.processing_utils import ProcessorMixin
from transformers.utils import PushToHubMixin

PAD, START, STOP, UNKNOWN, PLACE, FILM, BEGIN, END = SPECIAL = (
    "<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>", "<begin>", "<end>",
)  # fmt: skip
NUMBERED = {0: PAD, 1: START, 2: STOP, 3: UNKNOWN, 5: PLACE, 6: FILM, 7: BEGIN, 8: END}
ROLES = ("user", "assistant", ":", "?")
WORDS = tuple(f"w{i}" for i in range(VOCABULARY - len(NUMBERED) - len(ROLES)))
SQUARE = {"height": SIDE, "width": SIDE}
PATCHES = (SIDE // 8) ** 2
MARKED = {"patch_size": 8, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}


@dataclass(frozen=True)
class Saved:
    """How a family's processor is made. `place` is what a chat template and `prompt_raw` write for an image, `tokens`
    are the tokenizer's own names for special tokens, `options` the processor's, `videos` its video part's class."""

    kind: Any
    images: Any
    place: str = PLACE
    tokens: Mapping[str, str] = field(default_factory=lambda: {"image_token": PLACE, "video_token": FILM})
    options: Mapping[str, Any] = field(default_factory=dict)
    videos: str | None = None


def _qwen(kind: Any, videos: str) -> Saved:
    """The processor resizes a picture to at most 2048 pixels."""
    size = {"shortest_edge": 64, "longest_edge": 2048}
    images = Qwen2VLImageProcessorPil(size=size, patch_size=SMALL, merge_size=2)
    tokens = {"image_token": PLACE, "video_token": FILM, "vision_bos_token": BEGIN, "vision_eos_token": END}
    return Saved(kind, images, f"{BEGIN}{PLACE}{END}", tokens, videos=videos)


SAVED = {
    "llava": Saved(
        LlavaProcessor, CLIPImageProcessorPil(size=SQUARE, crop_size=SQUARE, do_center_crop=False), options=MARKED
    ),
    "llava_next": Saved(
        LlavaNextProcessor,
        LlavaNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS),
        options=MARKED,
    ),
    "llava_onevision": Saved(
        LlavaOnevisionProcessor,
        LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=PINPOINTS),
        options={"num_image_tokens": PATCHES, "vision_feature_select_strategy": "full"},
        videos="LlavaOnevisionVideoProcessor",
    ),
    "qwen2_vl": _qwen(Qwen2VLProcessor, "Qwen2VLVideoProcessor"),
    "qwen2_5_vl": _qwen(Qwen2_5_VLProcessor, "Qwen2VLVideoProcessor"),
    "qwen3_vl": _qwen(Qwen3VLProcessor, "Qwen3VLVideoProcessor"),
    "internvl": Saved(
        InternVLProcessor,
        GotOcr2ImageProcessorPil(size=SQUARE, max_patches=4),
        tokens={
            "start_image_token": BEGIN,
            "end_image_token": END,
            "context_image_token": PLACE,
            "video_token": FILM,
        },
        options={"image_seq_length": PATCHES},
        videos="InternVLVideoProcessor",
    ),
    "gemma3": Saved(
        Gemma3Processor,
        Gemma3ImageProcessorPil(size=SQUARE),
        place=BEGIN,
        tokens={"boi_token": BEGIN, "eoi_token": END, "image_token": PLACE},
        options={"image_seq_length": PATCHES},
    ),
}


def template(place: str) -> str:
    """A chat template: what a turn says, each image where it stands in the turn's content."""
    return (
        "{% for m in messages %}{% if m['role'] == 'user' %}user : {% else %} assistant : {% endif %}"
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}" + place + " {% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %} assistant :{% endif %}"
    )


def tokenizer(tokens: Mapping[str, str]) -> PreTrainedTokenizerFast:
    """Whole words between spaces; ids as the tiny models have them."""
    plain = iter((*ROLES, *WORDS))
    vocabulary = {NUMBERED[i] if i in NUMBERED else next(plain): i for i in range(VOCABULARY)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=PAD,
        bos_token=START,
        eos_token=STOP,
        unk_token=UNKNOWN,
        padding_side="left",
        extra_special_tokens=dict(tokens),
    )


class Videos(PushToHubMixin):  # type: ignore[misc]
    """Stands for a processor's video part, which needs torchvision; writes what that part is known by."""

    _auto_class = None

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def to_dict(self) -> dict[str, Any]:
        return {"video_processor_type": self.kind}


def processor(name: str) -> Any:
    """The processor of a family, of its own class."""
    saved = SAVED[name]
    parts: dict[str, Any] = {"image_processor": saved.images, "tokenizer": tokenizer(saved.tokens)}
    if saved.videos is None:
        return saved.kind(**parts, **saved.options, chat_template=template(saved.place))
    own = ProcessorMixin.check_argument_for_proper_class

    def check(self: Any, part: str, argument: Any) -> Any:
        return None if isinstance(argument, Videos) else own(self, part, argument)

    parts["video_processor"] = Videos(saved.videos)
    with mock.patch.object(ProcessorMixin, "check_argument_for_proper_class", check):
        return saved.kind(**parts, **saved.options, chat_template=template(saved.place))


def save(name: str, folder: Path) -> Path:
    """A checkpoint of a family, as the library writes it; -> the folder."""
    tiny_families.model(name).save_pretrained(folder)
    processor(name).save_pretrained(folder)
    return folder
