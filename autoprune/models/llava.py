"""LLaVA 1.5: one tower input per image, every projected patch is a visual token, in raster order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from autoprune.models import common
from autoprune.models.family import Family, ImageLayout, Places, Undo
from autoprune.policy.geometry import Geometry

if TYPE_CHECKING:
    from torch import nn


class Llava:
    name = "llava"
    model_types: tuple[str, ...] = ("llava",)
    protects_newlines = True

    def geometry(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Geometry:
        return common.geometry(self.name, config, common.tile_tokens(config, processor), self.protects_newlines)

    def token_settings(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Mapping[str, Any]:
        return {"tokens_per_image": common.tile_tokens(config, processor), "tile": common.tile_size(config, processor)}

    def image_token(self, config: Mapping[str, Any]) -> int:
        return common.image_token(config)

    def places(self, model: nn.Module) -> Places:
        return common.places(model)

    def watch(self, places: Places, report: Callable[[list[ImageLayout]], None]) -> Undo:
        """The projector's output [images, P, D] is used as it is."""

        def projected(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            images, patches = output.shape[:2]
            report([raster(image * patches, patches, places.tower.config) for image in range(images)])

        return places.projector.register_forward_hook(projected).remove


def raster(start: int, tokens: int, tower_config: Any) -> ImageLayout:
    """One tower input in raster order; a leading CLS token (strategy `full`) sits at row and column 0."""
    import torch

    side = tower_config.image_size // tower_config.patch_size
    extra = max(tokens - side * side, 0)
    patch = (torch.arange(tokens) - extra).clamp(min=0)
    return ImageLayout(
        source=torch.arange(start, start + tokens),
        segment=torch.zeros(tokens, dtype=torch.long),
        row=patch // side,
        column=patch % side,
        tiles=1,
    )


FAMILY: Family = Llava()
