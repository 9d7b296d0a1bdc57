"""Qwen3-VL: like Qwen2-VL, and the outputs of some blocks of the tower are added to the first decoder layers' outputs
(DeepStack), at the visual tokens that are still there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.models import qwen
from autoprune.models.defaults import QWEN3_DEEPSTACK
from autoprune.models.family import Family
from autoprune.policy.geometry import Geometry


class Qwen3VL(qwen.QwenVL):
    name = "qwen3_vl"
    model_types: tuple[str, ...] = ("qwen3_vl",)

    def geometry(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Geometry:
        vision = qwen.vision_config(config, self.name)
        stacked = qwen.blocks(vision, "deepstack_visual_indexes", QWEN3_DEEPSTACK)
        width, mlp = int(vision["hidden_size"]), int(vision["intermediate_size"])
        return qwen.geometry(self.name, config, width=width, mlp=mlp, gated=False, deepstack=stacked)


FAMILY: Family = Qwen3VL()
