"""How much the decoder's layers change each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from autoprune.errors import BadInput
from autoprune.pruning.decoder_signals import Transition
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import DecoderLayers, PartConfig, Signal, Site, decoder_row_layer

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


class TokenTransition(PartConfig):
    """layers: first and last of the decoder layers that count, all before the stage (default: the one before it)."""

    layers: DecoderLayers = ("prev", "prev")

    @field_validator("layers", mode="before")
    @classmethod
    def _one_before(cls, given: Any) -> Any:
        return ("prev", "prev") if given is None else given

    def steps(self, site: Site) -> tuple[Transition, ...]:
        """One signal for every layer that counts."""
        ends = [decoder_row_layer(end, site, "token_transition.layers") for end in self.layers or ("prev", "prev")]
        (first, _), (last, own) = ends
        if own or first > last:
            raise BadInput(
                f"token_transition.layers [{first}, {last}]: a range of layers before the stage's own, {site.layer}"
            )
        return tuple(Transition(layer) for layer in range(first, last + 1))

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return self.steps(site)


def flops(config: TokenTransition, sizes: Sizes) -> int:
    """12·s·d per layer: two norms and a product of what enters and leaves each of two modules."""
    steps = config.steps(sizes.site)
    return sum(12 * sizes.sequence(step.layer, False) * sizes.geometry.width for step in steps)


@part(
    "criterion",
    "token_transition",
    TokenTransition,
    flops=flops,
    sites=("llm",),
    paper="TransPrune: Token Transition Pruning for Efficient Large Vision-Language Model (2025)",
)
def token_transition(view: StageView, config: TokenTransition) -> Tensor:
    """How much attention and MLP of some decoder layers lengthen and turn each token, added up."""
    steps = [view.provide(step) for step in config.steps(view.site)]
    total = steps[0]
    for step in steps[1:]:
        total = total + step
    return total
