"""Values made of tensors taken apart: the tensors on their own, so that they can be kept elsewhere, and the rest.

Lists, tuples, dictionaries and dataclasses are walked; what they share (a layout that eight layers name) stays shared.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class _Slot:
    """Stands for a tensor: its number, and the device it was on."""

    number: int
    device: torch.device


@dataclass(frozen=True, eq=False)
class Packed:
    """A value without its tensors, and these, each with memory of its own and no more than it needs."""

    rest: Any
    tensors: list[Tensor]

    @property
    def bytes(self) -> int:
        return sum(min(t.untyped_storage().nbytes(), t.numel() * t.element_size()) for t in self.tensors)


def pack(value: Any, device: torch.device | str | None = None) -> Packed:
    """Take a value apart; its tensors then are on `device` (None: where they are)."""
    tensors: list[Tensor] = []

    def out(tensor: Tensor) -> _Slot:
        kept = tensor.detach() if device is None else tensor.detach().to(device)
        if kept.untyped_storage().nbytes() > kept.numel() * kept.element_size():
            kept = kept.clone()  # a piece would keep the whole alive
        tensors.append(kept)
        return _Slot(len(tensors) - 1, tensor.device)

    import torch

    return Packed(_mapped(value, torch.Tensor, out, {}), tensors)


def unpack(packed: Packed) -> Any:
    """The value again, its tensors on the devices they came from. Lists and dictionaries are new ones."""
    return _mapped(packed.rest, _Slot, lambda slot: packed.tensors[slot.number].to(slot.device), {})


def _mapped(value: Any, kind: type, change: Callable[[Any], Any], seen: dict[int, tuple[Any, Any]]) -> Any:
    if id(value) in seen:
        return seen[id(value)][0]
    made: Any = value
    if isinstance(value, kind):
        made = change(value)
    elif isinstance(value, dict):
        made = {k: _mapped(v, kind, change, seen) for k, v in value.items()}
    elif isinstance(value, list | tuple):
        made = type(value)([_mapped(v, kind, change, seen) for v in value])
    elif dataclasses.is_dataclass(value) and not isinstance(value, type | _Slot):
        made = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(made, field.name, _mapped(getattr(value, field.name), kind, change, seen))
    seen[id(value)] = (made, value)  # holding the value keeps its id its own
    return made
