"""Square windows of the picture's grid."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from autoprune.document.numbers import exact
from autoprune.document.problems import shown
from autoprune.errors import Mistake
from autoprune.pruning.grouping import GroupConfig
from autoprune.pruning.parts import part, uncounted

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.models.family import ImageLayout


def _side(value: Any) -> str:
    wrong = f"a window's side is a part of the grid's, such as 1/4; not {shown(value)}"
    try:
        side = exact(value)
    except ValueError as error:
        raise Mistake("not-a-number", wrong) from error
    if not 0 < side <= 1:
        raise Mistake("out-of-range", wrong)
    return str(side)


class Window(GroupConfig):
    """side: of a window, as a part of the grid's side; windows at the end may be smaller."""

    side: Annotated[str, BeforeValidator(_side)] = "1/4"


@part(
    "group",
    "window",
    Window,
    flops=uncounted,
    paper="VScan: Rethinking Visual Token Reduction (2025)",
    needs=frozenset({"grid"}),
)
def window(layout: ImageLayout, config: Window) -> Tensor:
    """Windows of ceil(side · height) x ceil(side · width) tokens, in each segment of the picture by itself."""
    import torch

    side, ids, start = Fraction(config.side), torch.zeros_like(layout.row), 0
    for segment in range(int(layout.segment.amax()) + 1):
        here = (layout.segment == segment) & (layout.source >= 0)
        if not here.any():
            continue
        height, width = int(layout.row[here].amax()) + 1, int(layout.column[here].amax()) + 1
        tall, wide = (-(-side.numerator * extent // side.denominator) for extent in (height, width))
        across = -(-width // wide)
        place = (layout.row // tall) * across + layout.column.clamp(max=width - 1) // wide
        ids = torch.where(layout.segment == segment, start + place, ids)
        start += -(-height // tall) * across
    return ids
