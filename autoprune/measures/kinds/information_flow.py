"""How much of what reaches the last prompt token does pruning disturb?"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from autoprune.measures.registry import measure
from autoprune.measures.views import View
from autoprune.pruning.parts import Config

if TYPE_CHECKING:
    from torch import Tensor


def _layer(value: Any) -> int | str:
    """An integer, or a fraction of the depth kept as exact text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
        raise ValueError("a layer is a whole number or a fraction of the depth such as 1/2")
    if isinstance(value, int):
        return value
    try:
        exact = Fraction(str(value).strip())
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{value!r} is neither a whole number nor a fraction such as 1/2") from error
    if exact.denominator == 1:
        return int(exact)
    if not 0 < exact < 1:
        raise ValueError(f"a fraction of the depth is between 0 and 1, not {value}")
    return str(exact)


class InformationFlowConfig(Config):
    """`layers`: after how many decoder layers (1 = after the first, -1 = after the last, 1/2 = half way).
    `distance`: `cosine` is 1 - cosine similarity, `l2` the length of the difference relative to the unpruned state."""

    layers: tuple[Annotated[int | str, BeforeValidator(_layer)], ...] = Field(("1/2", -1), min_length=1)
    distance: Literal["cosine", "l2"] = "cosine"

    def absolute(self, depth: int) -> tuple[int, ...]:
        """The layers as counts in [1, depth]; fractions round half up, to at least 1. Raises ValueError outside."""
        found = []
        for layer in self.layers:
            if isinstance(layer, str):
                found.append(max(1, int(Fraction(layer) * depth + Fraction(1, 2))))
            else:
                found.append(layer if layer >= 0 else depth + 1 + layer)
            if not 1 <= found[-1] <= depth:
                raise ValueError(f"layer {layer} is not among 1 to {depth} (or -{depth} to -1) of this model")
        return tuple(found)


@measure("information_flow", InformationFlowConfig, direction="lower", needs={"states"})
def information_flow(view: View, config: InformationFlowConfig) -> Tensor:
    """Distance between the last prompt token's hidden states with and without pruning, mean over the chosen layers."""
    import torch
    from torch.nn.functional import cosine_similarity

    distances = []
    for layer in config.absolute(view.depth):
        pruned, full = view.states[layer].float(), view.reference_states[layer].float()
        if config.distance == "cosine":
            distances.append((1 - cosine_similarity(pruned, full, dim=-1)).clamp(min=0))
        else:
            distances.append((pruned - full).norm(dim=-1) / full.norm(dim=-1))
    return torch.stack(distances).mean(0)
