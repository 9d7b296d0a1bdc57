"""LLaVA-OneVision: SigLIP tower, any-resolution tiles packed as in LLaVA-NeXT; images only, videos are left alone.

A sample's only image is cut into tiles; images in company are one tile each with one newline at the end. A picture of
too many tiles is shrunk after the projector, bilinearly: its visual tokens are then means of up to four rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput
from autoprune.models import common, defaults
from autoprune.models.family import Family, ImageLayout, Places, Undo
from autoprune.models.llava_next import newline_mark, packed_layout, row_numbers
from autoprune.policy.geometry import Geometry

if TYPE_CHECKING:
    from torch import Tensor, nn

ASSUMED = common.Assumed(("qwen2",), ("siglip_vision_model",), defaults.ONEVISION_TOWER, "full", 151646)
ASPECT = "anyres_max_9"
UNSHRUNK = f"anyres_max_{10**9}"


class LlavaOnevision:
    name = "llava_onevision"
    model_types: tuple[str, ...] = ("llava_onevision",)
    protects_newlines = True

    def geometry(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Geometry:
        if common.strategy(config, processor, ASSUMED) != "full":
            raise BadInput(
                "vision_feature_select_strategy 'default' would cut a patch off: SigLIP has no class token",
                code="unsupported-model",
            )
        made = common.geometry(self.name, {"vision_feature_layer": -1, **config}, None, ASSUMED)
        return replace(made, protects_newlines=self.protects_newlines)

    def token_settings(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Mapping[str, Any]:
        vision = common.vision_config(config, ASSUMED)
        own = (vision["image_size"] // vision["patch_size"]) ** 2
        image = common.image_settings(processor)
        pinpoints = image.get("image_grid_pinpoints") or config.get("image_grid_pinpoints")
        return {
            "overview_tokens": int((processor or {}).get("num_image_tokens") or own),
            "tile": common.tile_size(config, processor, ASSUMED),
            "pinpoints": [list(p) for p in pinpoints or defaults.ONEVISION_PINPOINTS],
            "aspect": str((processor or {}).get("vision_aspect_ratio") or config.get("vision_aspect_ratio") or ASPECT),
        }

    def image_token(self, config: Mapping[str, Any]) -> int:
        return common.image_token(config, ASSUMED)

    def places(self, model: nn.Module) -> Places:
        return common.places(model)

    def watch(self, places: Places, report: Callable[[list[ImageLayout]], None]) -> Undo:
        """Whenever the model packs features, pack their row numbers the same way."""
        base: Any = places.base
        original = base.pack_image_features

        def packing(
            image_features: Any,
            image_sizes: Any,
            image_newline: Tensor | None = None,
            vision_aspect_ratio: str = ASPECT,
        ) -> Any:
            packed = original(image_features, image_sizes, image_newline, vision_aspect_ratio)
            shapes = [(int(f.shape[0]), int(f.shape[1])) for f in image_features]
            newline = None if image_newline is None else newline_mark()
            sources, _ = original(row_numbers(shapes), image_sizes, newline, UNSHRUNK)
            layouts = [_layout(s[:, 0], *shape) for s, shape in zip(sources, shapes, strict=True)]
            if any(len(f) != len(x.source) for f, x in zip(packed[0], layouts, strict=True)):
                marks, _ = original(_blanks(shapes), image_sizes, newline_mark().double(), vision_aspect_ratio)
                layouts = [_shrunk(x, m[:, 0] < 0) for x, m in zip(layouts, marks, strict=True)]
            report(layouts)
            return packed

        base.pack_image_features = packing

        def undo() -> None:
            del base.pack_image_features

        return undo


def _blanks(shapes: list[tuple[int, int]]) -> list[Tensor]:
    import torch

    return [torch.zeros(*shape, 1, dtype=torch.float64) for shape in shapes]


def _layout(source: Tensor, tiles: int, patches: int) -> ImageLayout:
    """An image before it is shrunk: tiles as in LLaVA-NeXT, or one tile with a newline at its end."""
    import math

    import torch

    side = math.isqrt(patches)
    if tiles > 1:
        return packed_layout(source, tiles, patches, side)
    order = torch.arange(len(source))
    ends = order >= patches
    row = torch.where(ends, side - 1, order // side)
    return ImageLayout(source, torch.zeros_like(order), row, torch.where(ends, side, order % side), tiles)


def _shrunk(whole: ImageLayout, newline: Tensor) -> ImageLayout:
    """The layout of the packed tokens, of which `newline` [n] are newlines, out of that of the picture at full size."""
    import torch

    if len(newline) == len(whole.source):
        return whole
    overview = int((whole.segment == 0).sum())
    high, wide = _sides(whole.source[overview:] < 0)
    rows, columns = _sides(newline[overview:])
    (above, down), (left, along) = _taps(high, rows), _taps(wide, columns)
    picture = whole.source[overview:].view(high, wide + 1)
    members = picture[above[:, None, :, None], left[None, :, None, :]].flatten(2)
    weights = (down[:, None, :, None] * along[None, :, None, :]).flatten(2)
    ended = torch.nn.functional.pad
    members, weights = ended(members, (0, 0, 0, 1)).flatten(0, 1), ended(weights, (0, 0, 0, 1)).flatten(0, 1)
    source = members.gather(1, weights.argmax(1, keepdim=True))[:, 0].masked_fill(newline[overview:], -1)
    first = whole.source[:overview]
    alone = torch.tensor([1.0, 0, 0, 0], dtype=weights.dtype).expand(overview, 4)
    place = torch.arange(rows * (columns + 1))
    return replace(
        whole,
        source=torch.cat([first, source]),
        segment=torch.cat([whole.segment[:overview], torch.ones_like(place)]),
        row=torch.cat([whole.row[:overview], place // (columns + 1)]),
        column=torch.cat([whole.column[:overview], place % (columns + 1)]),
        members=torch.cat([first[:, None].expand(-1, 4), members]),
        weights=torch.cat([alone, weights]).float(),
    )


def _sides(newline: Tensor) -> tuple[int, int]:
    """Rows and columns of a picture whose every row ends in a newline."""
    rows = int(newline.sum())
    return rows, len(newline) // rows - 1


def _taps(size: int, new: int) -> tuple[Tensor, Tensor]:
    """Bilinear shrinking of a line without aligned corners: the two rows [new, 2] of each new one, their weights."""
    import torch

    at = ((torch.arange(new, dtype=torch.float64) + 0.5) * size / new - 0.5).clamp(min=0)
    low = at.floor()
    near = torch.stack([low, (low + 1).clamp(max=size - 1)], 1).long()
    return near, torch.stack([1 - (at - low), at - low], 1)


FAMILY: Family = LlavaOnevision()
