"""ViP-LLaVA: as LLaVA 1.5, but the projector takes the features of several blocks of the tower, normalised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from autoprune.models import common, limits
from autoprune.models.family import Family, ImageLayout, Places, Undo
from autoprune.policy.geometry import Geometry

if TYPE_CHECKING:
    from torch import nn

TAKEN = {"vision_feature_layer": [-2, -5, -8, -11, 6]}  # where a configuration does not say


class VipLlava:
    name = "vipllava"
    model_types: tuple[str, ...] = ("vipllava",)
    protects_newlines = True  # there are none

    def geometry(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Geometry:
        tokens = common.tile_tokens(config, processor)
        return common.geometry(self.name, {**TAKEN, **config}, tokens, lacks={"sensitivity": limits.PROJECTOR})

    def token_settings(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Mapping[str, Any]:
        return {"tokens_per_image": common.tile_tokens(config, processor), "tile": common.tile_size(config, processor)}

    def image_token(self, config: Mapping[str, Any]) -> int:
        return common.image_token(config)

    def places(self, model: nn.Module) -> Places:
        return common.places(model)

    def watch(self, places: Places, report: Callable[[list[ImageLayout]], None]) -> Undo:
        return common.watch_projector(places, report)


FAMILY: Family = VipLlava()
