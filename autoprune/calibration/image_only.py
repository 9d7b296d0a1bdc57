"""Processors that also handle videos, without their video part.

That part needs torchvision and has no PIL backend, and calibration has images only. What the images and the text become
is the same.
"""

from __future__ import annotations

from typing import Any

PARTS = {"image_processor", "tokenizer", "video_processor"}


def fits(path: str, options: dict[str, Any]) -> bool:
    """Whether the processor of a local model is made of an image, a text and a video part."""
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        kind: Any = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(path, **options))]
    except (KeyError, OSError, ValueError):
        return False
    return set(kind.get_attributes()) == PARTS


def load(path: str, options: dict[str, Any]) -> Any:
    """The processor of a local model whose video part is None; `options` as for from_pretrained.

    Raises ImportError where the model's processor has no video part that could be left out.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    kind: Any = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(path, **options))]
    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(path, backend="pil", **options),
        "tokenizer": AutoTokenizer.from_pretrained(path, **options),
        "video_processor": None,
    }
    names = kind.get_attributes()
    if set(names) != PARTS:
        raise ImportError(f"{kind.__name__} needs torchvision: install the release that goes with this torch")
    made: Any = type(kind.__name__, (kind,), {"check_argument_for_proper_class": _unless_none(kind)})
    settings, _ = kind.get_processor_dict(path, **options)
    return made.from_args_and_dict([parts[name] for name in names], settings)


def _unless_none(kind: Any) -> Any:
    """The class's own check of its parts, for the parts that are there."""

    def check(self: Any, argument_name: str, argument: Any) -> Any:
        return None if argument is None else kind.check_argument_for_proper_class(self, argument_name, argument)

    return check
