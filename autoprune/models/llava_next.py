"""LLaVA-NeXT (1.6): an overview tile and high-resolution tiles, unpadded and packed with a newline after every row.

The mapping from tower rows to visual positions is found by sending row numbers through the model's own packing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autoprune.models import common
from autoprune.models.defaults import LLAVA_NEXT_PINPOINTS
from autoprune.models.family import Family, ImageLayout, Places, Undo
from autoprune.policy.geometry import Geometry

if TYPE_CHECKING:
    from torch import Tensor, nn


class LlavaNext:
    name = "llava_next"
    model_types: tuple[str, ...] = ("llava_next",)
    protects_newlines = True

    def geometry(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Geometry:
        return replace(common.geometry(self.name, config, None), protects_newlines=self.protects_newlines)

    def token_settings(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Mapping[str, Any]:
        image = common.image_settings(processor)
        pinpoints = image.get("image_grid_pinpoints") or config.get("image_grid_pinpoints") or LLAVA_NEXT_PINPOINTS
        return {
            "overview_tokens": common.tile_tokens(config, processor),
            "tile": common.tile_size(config, processor),
            "pinpoints": [list(p) for p in pinpoints],
        }

    def image_token(self, config: Mapping[str, Any]) -> int:
        return common.image_token(config)

    def places(self, model: nn.Module) -> Places:
        return common.places(model)

    def watch(self, places: Places, report: Callable[[list[ImageLayout]], None]) -> Undo:
        """Whenever the model packs features, pack their row numbers the same way."""
        base: Any = places.base
        original = base.pack_image_features

        def packing(
            image_features: Any,
            image_sizes: Any,
            vision_feature_select_strategy: str,
            image_newline: Tensor | None = None,
        ) -> Any:
            packed = original(image_features, image_sizes, vision_feature_select_strategy, image_newline)
            shapes = [(int(f.shape[0]), int(f.shape[1])) for f in image_features]
            markers, newline = row_numbers(shapes), None if image_newline is None else newline_mark()
            sources, _ = original(markers, image_sizes, vision_feature_select_strategy, newline)
            side = base.config.vision_config.image_size // base.config.vision_config.patch_size
            report([packed_layout(s[:, 0], *shape, side=side) for s, shape in zip(sources, shapes, strict=True)])
            return packed

        base.pack_image_features = packing

        def undo() -> None:
            del base.pack_image_features

        return undo


def newline_mark() -> Tensor:
    import torch

    return torch.full((1,), -1, dtype=torch.long)


def row_numbers(shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Row numbers of the projector's output as one-channel features, [tiles, patches, 1] per image."""
    import torch

    start, made = 0, []
    for tiles, patches in shapes:
        made.append(torch.arange(start, start + tiles * patches).view(tiles, patches, 1))
        start += tiles * patches
    return made


def packed_layout(source: Tensor, tiles: int, patches: int, side: int) -> ImageLayout:
    """Segment, row and column from packed row numbers: the overview first, newlines end high-resolution rows."""
    import torch

    order = torch.arange(len(source))
    segment = (order >= patches).long()
    patch = (order - (patches - side * side)).clamp(min=0)
    newline = source < 0
    ended = newline.long().cumsum(0) - newline.long()
    starts = torch.where(newline.roll(1), order, 0)
    starts[0] = 0
    starts = torch.where(order >= patches, starts.cummax(0).values.clamp(min=patches), 0)
    return ImageLayout(
        source=source,
        segment=segment,
        row=torch.where(segment == 0, patch // side, ended),
        column=torch.where(segment == 0, patch % side, order - starts),
        tiles=tiles,
    )


FAMILY: Family = LlavaNext()
