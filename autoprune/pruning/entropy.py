"""Entropy of the grey values in each patch of a picture, from the pixels that enter the tower."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from autoprune.errors import BadInput
from autoprune.models.folder import locate, read_processor

if TYPE_CHECKING:
    from torch import Tensor

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
# What processors subtract and divide by, red, green, blue, where the checkpoint's own settings are not at hand.
NORMALISED: Mapping[str, Normalisation] = {
    "clip_vision_model": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip_vision_model": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "internvl_vision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
GREY = (299, 587, 114)  # luma of red, green and blue, in thousandths (ITU-R BT.601)
LEVELS = 256


def refuse_tower(config: Any) -> None:
    """Raises BadInput for a tower whose pixels cannot be told: another kind, or not of three colours."""
    kind = str(getattr(config, "model_type", ""))
    if kind not in NORMALISED:
        raise BadInput(f"patch_entropy: how this tower's pixels are normalised is not known ({kind!r})")
    if config.num_channels != len(GREY):
        raise BadInput(f"patch_entropy needs pictures of three colours, not of {config.num_channels} channels")


def normalisation(tower: Any, model: Any) -> Normalisation:
    """Mean and deviation of each colour, from the settings of the processor that was saved with the model's weights.

    A model that comes from nowhere, or without such settings, has those of its tower's kind. tower, model: configs.
    """
    return _saved(str(getattr(model, "_name_or_path", ""))) or NORMALISED[tower.model_type]


@functools.lru_cache(maxsize=64)
def _saved(name: str) -> Normalisation | None:
    try:
        settings = (read_processor(locate(name)) or {}).get("image_processor", {}) if name else {}
    except BadInput:
        return None
    if settings.get("do_normalize") is False:
        return ((0.0,) * len(GREY), (1.0,) * len(GREY))
    mean, deviation = settings.get("image_mean"), settings.get("image_std")
    if not (isinstance(mean, list) and isinstance(deviation, list) and len(mean) == len(deviation) == len(GREY)):
        return None
    return tuple(map(float, mean)), tuple(map(float, deviation))


def tower_inputs(pixels: Tensor, tiles: Sequence[int]) -> Tensor:
    """Pictures as the tower sees them [T, 3, H, W]: tiles of all images, without those that only fill up a batch."""
    if pixels.ndim == 4:
        return pixels
    return torch.cat([image[:count] for image, count in zip(pixels, tiles, strict=True)])


def patch_entropy(pictures: Tensor, config: Any, normalised: Normalisation) -> Tensor:
    """Shannon entropy in bits [T, patches] of the 256 grey levels in each patch of pictures [T, 3, H, W].

    The levels are those before normalisation, 0 to 255, so that a grey step counts the same in every picture (VFlowOpt,
    as its paper means it: the release takes the entropy of normalised values).
    """
    (patch, *_) = _sides(config.patch_size)
    rows, columns = pictures.shape[2] // patch, pictures.shape[3] // patch
    grey = _grey(pictures, normalised)[:, : rows * patch, : columns * patch]
    levels = grey.reshape(-1, rows, patch, columns, patch).transpose(2, 3).flatten(3).flatten(1, 2)
    counts = torch.zeros(*levels.shape[:2], LEVELS, dtype=torch.int32, device=levels.device)
    counts = counts.scatter_add(2, levels, torch.ones_like(levels, dtype=torch.int32))
    entropy: Tensor = torch.special.entr(counts.float() / patch**2).sum(2) / math.log(2)
    return entropy


def _grey(pictures: Tensor, normalised: Normalisation) -> Tensor:
    """Grey levels [T, H, W], whole numbers: they come out the same whatever the precision of the pixels' own levels."""
    mean, deviation, weights = (torch.tensor(x, device=pictures.device)[:, None, None] for x in (*normalised, GREY))
    colours = ((pictures.float() * deviation + mean) * (LEVELS - 1)).round().clamp(0, LEVELS - 1).long()
    return ((colours * weights).sum(1) + 500) // 1000


def _sides(size: Any) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, list | tuple) else (size, size)
