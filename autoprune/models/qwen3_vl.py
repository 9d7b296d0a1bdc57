"""Qwen3-VL: like Qwen2-VL, and the outputs of some blocks of the tower are added to the first decoder layers' outputs
(DeepStack), at the visual tokens that are still there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from autoprune.models import qwen
from autoprune.models.defaults import QWEN3_DEEPSTACK
from autoprune.models.family import Family, ImageLayout, Places, Undo
from autoprune.policy.geometry import Geometry

if TYPE_CHECKING:
    from torch import nn


class Qwen3VL:
    name = "qwen3_vl"
    model_types: tuple[str, ...] = ("qwen3_vl",)
    protects_newlines = False

    def geometry(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Geometry:
        vision = qwen.vision_config(config, self.name)
        stacked = qwen.blocks(vision, "deepstack_visual_indexes", QWEN3_DEEPSTACK)
        width, mlp = int(vision["hidden_size"]), int(vision["intermediate_size"])
        return qwen.geometry(self.name, config, width=width, mlp=mlp, gated=False, deepstack=stacked)

    def token_settings(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Mapping[str, Any]:
        return qwen.token_settings(self.name, config, processor)

    def image_token(self, config: Mapping[str, Any]) -> int:
        return qwen.image_token(config)

    def places(self, model: nn.Module) -> Places:
        return qwen.places(model)

    def watch(self, places: Places, report: Callable[[list[ImageLayout]], None]) -> Undo:
        return qwen.watch(places, report)


FAMILY: Family = Qwen3VL()
