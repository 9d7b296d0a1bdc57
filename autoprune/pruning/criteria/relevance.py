"""What an answer rests on, by its gradient: an oracle that no policy can follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from autoprune.errors import BadInput
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig, Signal, Site

if TYPE_CHECKING:
    from autoprune.pruning.view import StageView

REFUSED = (
    "relevance needs the answer and a backward pass through the unpruned model, which a prefill cannot give: "
    "it is an oracle for diagnostics, autoprune.pruning.relevance"
)


class Relevance(PartConfig):
    """No parameters. Refused in every policy; `autoprune.pruning.relevance` computes it."""

    def signals(self, site: Site) -> tuple[Signal, ...]:
        raise BadInput(REFUSED)


def flops(config: Relevance, sizes: Sizes) -> int:
    """0: it is never part of a policy."""
    return 0


@part(
    "criterion",
    "relevance",
    Relevance,
    flops=flops,
    tier="T4",
    sites=(),
    paper="Generic Token Compression in Multimodal Large Language Models from an Explainability Perspective (2025); "
    "Generic Attention-model Explainability (Chefer et al., ICCV 2021)",
)
def relevance(view: StageView, config: Relevance) -> NoReturn:
    """Attention times gradient from the answer back to each visual token; for diagnostics only."""
    raise BadInput(REFUSED)
