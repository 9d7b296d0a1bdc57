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
        return common.geometry(self.name, config, common.tile_tokens(config, processor))

    def token_settings(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Mapping[str, Any]:
        return {"tokens_per_image": common.tile_tokens(config, processor), "tile": common.tile_size(config, processor)}

    def image_token(self, config: Mapping[str, Any]) -> int:
        return common.image_token(config)

    def places(self, model: nn.Module) -> Places:
        return common.places(model)

    def watch(self, places: Places, report: Callable[[list[ImageLayout]], None]) -> Undo:
        """The projector's output [images, P, D] is used as it is."""
        return common.watch_projector(places, report)


FAMILY: Family = Llava()
