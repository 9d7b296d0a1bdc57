"""Pivots, and the tokens that are least like them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from autoprune.errors import BadInput, Mistake
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import FeatureSpace, SpaceConfig
from autoprune.pruning.signals import Signal, Site, key_norm

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import Quota, StageView


class Pivot(SpaceConfig):
    """image: how many visual tokens of the best score are pivots, and are kept. text: how many prompt rows after the
    last visual token are pivots, those of the largest L1 norm of their keys in the decoder layer before the stage (at
    llm:0 and projector in layer 0). space: which feature rows likeness (cosine) is measured on; prompt rows have none
    of the vision tower's."""

    image: int = Field(4, ge=1, strict=True)
    text: int = Field(4, ge=0, strict=True)
    space: FeatureSpace = "normed"

    @model_validator(mode="after")
    def _comparable(self) -> Pivot:
        if self.text and self.space in ("encoder", "encoder_keys"):
            raise Mistake("conflict", f"the prompt has no rows in the space `{self.space}`: set `text: 0`")
        return self

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (*super().signals(site), *((key_norm(site, "l1"),) if self.text else ()))


def flops(config: Pivot, sizes: Sizes) -> int:
    """2·p·V·w for p pivots, and the probe at layer 0 for the keys of words; their norms come with the picture's, which
    `feature_norm` counts."""
    pivots = min(config.image, sizes.kept) + min(config.text, sizes.text)
    probed = bool(config.text) and config.space != "keys" and key_norm(sizes.site, "l1").own
    return config.comparing(sizes, pivots * sizes.current) + sizes.probe(probed)


@part(
    "selector",
    "pivot",
    Pivot,
    flops=flops,
    needs=frozenset({"score"}),
    reads="order",
    paper="DART: Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More (2025)",
)
def pivot(view: StageView, scores: Tensor | None, quota: Quota, free: Tensor, taken: Tensor, config: Pivot) -> Tensor:
    """Each pivot in turn takes its share of the tokens with the lowest cosine to it, without replacement.

    Image pivots come first, by falling score, then text pivots, by falling norm. K less the image pivots is split
    evenly, the remainder one each to the first. DART's score is the L1 norm of keys; its release goes through the
    pivots in the order of a Python set, and keeps 4 + 8·floor(b / 8) of a budget b.
    """
    import torch

    from autoprune.pruning.tensors import best, rank, take, unit

    if scores is None:
        raise BadInput("selector 'pivot' needs a score")
    rows = unit(config.features(view))
    chosen = best(scores, free, quota.each.clamp(max=config.image))
    index = rank(scores, free).argsort(1)[:, : min(config.image, quota.most)]
    pivots, real = take(rows, index, 1), chosen.gather(1, index)
    if config.text:
        words, there = _loudest(view, config)
        pivots, real = torch.cat([pivots, unit(words)], 1), torch.cat([real, there], 1)
    counts = _shares(quota.each - chosen.sum(1), real)
    likeness = pivots @ rows.transpose(1, 2)
    for number in range(pivots.shape[1]):
        chosen = chosen | best(-likeness[:, number], free & ~chosen, counts[:, number])
    return chosen


def _loudest(view: StageView, config: Pivot) -> tuple[Tensor, Tensor]:
    """Prompt rows [B, n, w] of the largest key norms, falling, and which are real [B, n]; n = config.text at most."""
    from autoprune.pruning.tensors import rank, take

    norms, real = view.text(key_norm(view.site, "l1"))
    index = rank(norms, real).argsort(1)[:, : config.text]
    return take(config.text_rows(view)[0], index, 1), real.gather(1, index)


def _shares(rest: Tensor, real: Tensor) -> Tensor:
    """`rest` [B] split evenly over the real pivots [B, p], the remainder to the first ones; [B, p]."""
    pivots = real.sum(1).clamp(min=1)
    more = real.cumsum(1) <= (rest % pivots)[:, None]
    return ((rest // pivots)[:, None] + more) * real
