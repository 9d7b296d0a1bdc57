"""Ordered layers: sampled as gaps, so that every sample is a valid placement.

For `l1 < l2` the sampler is asked for l1 as an integer and for u in [0, 1]; l2 = lo + floor(u·(hi - lo + 1)) with
lo = max(its own lowest, l1 + 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.policy.parameters import Param
from autoprune.policy.sites import absolute

Order = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Slot:
    """A layer's range for one depth; `high` leaves room for those that must come after. `after`: those before it."""

    name: str
    low: int
    high: int
    after: tuple[str, ...]

    @property
    def gap(self) -> bool:
        return bool(self.after)

    def lowest(self, layers: Mapping[str, int]) -> int:
        return max([self.low, *(layers[name] + 1 for name in self.after)])

    def place(self, u: float, layers: Mapping[str, int]) -> int:
        low = self.lowest(layers)
        room = self.high - low
        return low + min(room, int(u * (room + 1)))

    def gap_of(self, layer: int, layers: Mapping[str, int]) -> float | None:
        """The u (middle of its interval) that places this layer, or None if none does."""
        low = self.lowest(layers)
        return (layer - low + 0.5) / (self.high - low + 1) if low <= layer <= self.high else None


def sorted_names(names: Sequence[str], order: Order) -> tuple[str, ...] | None:
    """Names such that smaller layers come first; None if the order goes in a circle."""
    result: list[str] = []
    left = list(names)
    while left:
        free = [n for n in left if not any(b == n and a in left for a, b in order)]
        if not free:
            return None
        result.append(free[0])
        left.remove(free[0])
    return tuple(result)


def slots(params: Sequence[Param], order: Order, depth: int) -> tuple[Slot, ...]:
    """The slots in order. A slot with `low > high` (counting those before it) is an empty placement range."""
    by_name = {p.name: p for p in params}
    names = sorted_names(tuple(by_name), order) or ()
    high: dict[str, int] = {}
    for name in reversed(names):
        after = [high[b] - 1 for a, b in order if a == name]
        high[name] = min([absolute(by_name[name].high, depth), *after])
    return tuple(
        Slot(name, absolute(by_name[name].low, depth), high[name], tuple(a for a, b in order if b == name))
        for name in names
    )


def placed(slots_in_order: Sequence[Slot], values: Mapping[str, Any]) -> dict[str, int]:
    """The layers that sampled values mean."""
    layers: dict[str, int] = {}
    for slot in slots_in_order:
        value = values[slot.name]
        layers[slot.name] = slot.place(value, layers) if slot.gap else int(value)
    return layers


def reachable(slots_in_order: Sequence[Slot]) -> dict[str, range]:
    """All layers that each slot can stand at, those before it as early as they can."""
    first: dict[str, int] = {}
    for slot in slots_in_order:
        first[slot.name] = slot.lowest(first)
    return {slot.name: range(first[slot.name], slot.high + 1) for slot in slots_in_order}


def snapped(
    slots_in_order: Sequence[Slot], values: Mapping[str, Any], places: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Values whose layers stand at the nearest of their `places`, the order kept; of two as near, the shallower one. A
    layer that has no such place behind those before it stays, or makes room for them."""
    asked, layers, moved = placed(slots_in_order, values), dict[str, int](), dict(values)
    for slot in slots_in_order:
        low = slot.lowest(layers)
        wanted = max(asked[slot.name], low)
        free = [place for place in places.get(slot.name, ()) if low <= place <= slot.high]
        layer = min(free, key=lambda place: (abs(place - wanted), place)) if free else wanted
        moved[slot.name] = slot.gap_of(layer, layers) if slot.gap else layer
        layers[slot.name] = layer
    return moved


def empty(slots_in_order: Sequence[Slot]) -> list[str]:
    """The names whose range is empty even if all those before stand as early as they can."""
    layers: dict[str, int] = {}
    found = []
    for slot in slots_in_order:
        layers[slot.name] = slot.lowest(layers)
        if layers[slot.name] > slot.high:
            found.append(slot.name)
    return found
