"""Pivots, and the tokens that are least like them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from autoprune.errors import BadInput
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import FeatureSpace, SpaceConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import Quota, StageView


class Pivot(SpaceConfig):
    """image: how many visual tokens of the best score are pivots, and are kept. text: how many prompt rows after the
    last visual token are pivots, those of the largest L1 norm. space: which feature rows likeness (cosine) is measured
    on; prompt rows have none of the vision tower's."""

    image: int = Field(4, ge=1, strict=True)
    text: int = Field(4, ge=0, strict=True)
    space: FeatureSpace = "hidden"

    @model_validator(mode="after")
    def _comparable(self) -> Pivot:
        if self.text and self.space in ("encoder", "encoder_keys"):
            raise ValueError(f"the prompt has no rows in the space `{self.space}`: set `text: 0`")
        return self


def flops(config: Pivot, sizes: Sizes) -> int:
    """2·p·V·d for p pivots."""
    pivots = min(config.image, sizes.kept) + min(config.text, sizes.text)
    return config.comparing(sizes, pivots * sizes.current)


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
    evenly, the remainder one each to the first. DART scores by the L1 norm of keys, of image and text alike; keys of
    prompt rows are not at hand here, so the rows' own norm stands for them, and the model's last norm is not applied.
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
        words, there = _loudest(*config.text_rows(view), config.text)
        pivots, real = torch.cat([pivots, unit(words)], 1), torch.cat([real, there], 1)
    counts = _shares(quota.each - chosen.sum(1), real)
    likeness = pivots @ rows.transpose(1, 2)
    for number in range(pivots.shape[1]):
        chosen = chosen | best(-likeness[:, number], free & ~chosen, counts[:, number])
    return chosen


def _loudest(rows: Tensor, real: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The rows [B, n, D] of the largest L1 norm, falling, and which of them are real [B, n]; n = count at most."""
    from autoprune.pruning.tensors import rank, take

    index = rank(rows.float().abs().sum(2), real).argsort(1)[:, :count]
    return take(rows, index, 1), real.gather(1, index)


def _shares(rest: Tensor, real: Tensor) -> Tensor:
    """`rest` [B] split evenly over the real pivots [B, p], the remainder to the first ones; [B, p]."""
    pivots = real.sum(1).clamp(min=1)
    more = real.cumsum(1) <= (rest % pivots)[:, None]
    return ((rest // pivots)[:, None] + more) * real
