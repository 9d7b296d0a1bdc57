"""Qwen2-VL: images of any size, every patch of an image sees all of it, four patches become one visual token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.models import qwen
from autoprune.models.family import Family
from autoprune.policy.geometry import Geometry


class Qwen2VL(qwen.QwenVL):
    name = "qwen2_vl"
    model_types: tuple[str, ...] = ("qwen2_vl",)

    def geometry(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Geometry:
        vision = qwen.vision_config(config, self.name)
        width = int(vision["embed_dim"])
        return qwen.geometry(self.name, config, width=width, mlp=width * int(vision["mlp_ratio"]), gated=False)


FAMILY: Family = Qwen2VL()
