"""What a vision tower computes by itself, in pieces that see only themselves: pictures, tiles, windows.

Queries, keys and maps come from the untouched model's eager attention function. `visual` lines a piece's patch values
up with the sample's visual tokens, in loops of its own: merge units, window order, tiles and newlines.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from oracle_worlds import World, array, world
from vision_support import packed, tile_counts

UNIT = 2  # patches a side that become one token, where several do
CLASSLESS = ("gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@dataclass(frozen=True, eq=False)
class Piece:
    """One head-wise attention in one block: query, key [H, T, D] and map [H, T, T], the class token first if any."""

    query: Any
    key: Any
    map: Any


class Tower:
    """One sample. blocks[b]: the pieces of block b, in the tower's own order."""

    def __init__(self, name: str, number: int, seed: int) -> None:
        self.name, place = name, world(name, seed)
        self.batch = place.singles[number]
        self.has_cls = name not in CLASSLESS
        self.blocks = self._recorded(place)

    def _recorded(self, place: World) -> list[list[Piece]]:
        tower = getattr(place.plain.model, "vision_tower", None) or place.plain.model.visual
        calls: dict[int, list[Piece]] = {}
        file: Any = sys.modules[_attention_file(tower)]
        original: Any = file.eager_attention_forward

        def spy(module: Any, query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> Any:
            out, weights = original(module, query, key, value, *rest, **more)
            for q, k, w in zip(query, key, weights, strict=True):
                calls.setdefault(id(module), []).append(Piece(array(q), array(k), array(w)))
            return out, weights

        file.eager_attention_forward = spy
        try:
            with torch.no_grad():
                place.plain(**self.batch, use_cache=False)
        finally:
            file.eager_attention_forward = original
        own = {id(module) for module in tower.modules()}
        return [pieces for module, pieces in calls.items() if module in own]

    def visual(self, values: Sequence[Sequence[float]], block: int = 1) -> list[float]:
        """Patch values of each piece at the sample's visual tokens; 0 at newlines."""
        rows = [list(v) for v in values]
        if self.name == "llava_next":
            ((height, width),) = self.batch["image_sizes"].tolist()
            assert tile_counts(self.batch) == [len(rows)]
            return packed(rows, height // 48, width // 48)
        if self.name in ("gemma3", "internvl"):
            return [v for row in rows for v in _blocks(row)]
        units = [v for row in rows for v in row]
        if "image_grid_thw" not in self.batch:
            return units
        units = [sum(units[i : i + UNIT**2]) / UNIT**2 for i in range(0, len(units), UNIT**2)]
        return _from_windows(units, self.batch["image_grid_thw"].tolist()) if self.name == "qwen2_5_vl" else units


def _attention_file(tower: Any) -> str:
    """The file of the class that does the attention: it holds the eager function."""
    for module in tower.modules():
        if type(module).__name__.endswith("Attention"):
            return type(module).__module__
    raise AssertionError("no attention in this tower")


def _blocks(row: Sequence[float]) -> list[float]:
    """Means over 2 x 2 patches of a square picture, raster order."""
    side = int(len(row) ** 0.5)
    found = []
    for top in range(0, side, UNIT):
        for left in range(0, side, UNIT):
            cells = [row[(top + y) * side + left + x] for y in range(UNIT) for x in range(UNIT)]
            found.append(sum(cells) / len(cells))
    return found


def _from_windows(units: Sequence[float], grids: Sequence[Sequence[int]], side: int = 2) -> list[float]:
    """Units that stand window after window (side x side units, smaller at the far edges), back in raster order."""
    found, start = list[float](), 0
    for _, height, width in grids:
        rows, columns = height // UNIT, width // UNIT
        order = []
        for top in range(0, rows, side):
            for left in range(0, columns, side):
                for row in range(top, min(top + side, rows)):
                    order += [row * columns + column for column in range(left, min(left + side, columns))]
        here = [0.0] * len(order)
        for place, unit in enumerate(order):
            here[unit] = units[start + place]
        found += here
        start += len(order)
    return found


@cache
def tower(name: str, number: int, seed: int = 1) -> Tower:
    return Tower(name, number, seed)
