"""Qwen2.5-VL: like Qwen2-VL, but most blocks of the tower attend within windows, and its rows are in window order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from autoprune.models import qwen
from autoprune.models.defaults import QWEN2_5_FULL_BLOCKS
from autoprune.models.family import Family, ImageLayout, Places, Undo
from autoprune.policy.geometry import Geometry

if TYPE_CHECKING:
    from torch import Tensor


class Qwen25VL(qwen.QwenVL):
    name = "qwen2_5_vl"
    model_types: tuple[str, ...] = ("qwen2_5_vl",)

    def geometry(self, config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> Geometry:
        vision = qwen.vision_config(config, self.name)
        depth, side = int(vision["depth"]), int(vision["patch_size"]) * int(vision["spatial_merge_size"])
        full = qwen.blocks(vision, "fullatt_block_indexes", QWEN2_5_FULL_BLOCKS)
        return qwen.geometry(
            self.name,
            config,
            width=int(vision["hidden_size"]),
            mlp=int(vision["intermediate_size"]),
            gated=True,
            windowed=tuple(block for block in range(depth) if block not in full),
            window=int(vision["window_size"]) // side * int(vision["spatial_merge_size"]),
        )

    def watch(self, places: Places, report: Callable[[list[ImageLayout]], None]) -> Undo:
        tower: Any = places.tower

        def order(grid: Tensor, keywords: Mapping[str, Any]) -> Tensor:
            """As the tower computes it itself, from the same grid and the same keywords."""
            from transformers.vision_utils import get_vision_window_index

            index, _ = get_vision_window_index(
                grid, tower.spatial_merge_size, tower.window_size, tower.patch_size, kwargs=dict(keywords)
            )
            return index  # type: ignore[no-any-return]

        return qwen.watch(places, report, order)


FAMILY: Family = Qwen25VL()
