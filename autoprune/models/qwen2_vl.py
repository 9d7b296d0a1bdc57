"""Qwen2-VL: images of any size, every patch of an image sees all of it, four patches become one visual token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from autoprune.models import qwen
from autoprune.models.family import Family, ImageLayout, Places, Undo
from autoprune.policy.geometry import Geometry

if TYPE_CHECKING:
    from torch import nn


class Qwen2VL:
    name = "qwen2_vl"
    model_types: tuple[str, ...] = ("qwen2_vl",)
    protects_newlines = False

    def geometry(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Geometry:
        vision = qwen.vision_config(config, self.name)
        width = int(vision["embed_dim"])
        return qwen.geometry(self.name, config, width=width, mlp=width * int(vision["mlp_ratio"]), gated=False)

    def token_settings(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Mapping[str, Any]:
        return qwen.token_settings(self.name, config, processor)

    def image_token(self, config: Mapping[str, Any]) -> int:
        return qwen.image_token(config)

    def places(self, model: nn.Module) -> Places:
        return qwen.places(model)

    def watch(self, places: Places, report: Callable[[list[ImageLayout]], None]) -> Undo:
        return qwen.watch(places, report)


FAMILY: Family = Qwen2VL()
