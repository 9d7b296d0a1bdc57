"""Every kept token takes in its nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.pruning.merging import Into
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import FeatureSpace, SpaceConfig, space_signals
from autoprune.pruning.signals import Number, Signal, Site

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.stage import Kept
    from autoprune.pruning.view import StageView


class Knn(SpaceConfig):
    """space, key_layer, key_heads: which feature rows likeness (cosine) is measured on. neighbours: how many tokens a
    kept one takes in. residual: one of the K rows is the score-weighted mean of all that was not selected. into: which
    kept tokens take others in, `all`, or those of the stage's `last` pick, and then nothing that earlier picks chose
    (Recoverable Compression). text_weight: how much a neighbour's cosine to the mean prompt row counts beside its
    likeness."""

    space: FeatureSpace = "encoder"
    neighbours: int = Field(default=32, ge=1, strict=True)
    residual: bool = False
    into: Into = "all"
    text_weight: Number = Field(default=0.0, ge=0)

    def signals(self, site: Site) -> tuple[Signal, ...]:
        text = space_signals("projected", site) if self.text_weight else ()
        return tuple(dict.fromkeys((*super().signals(site), *text)))

    def extra(self, kept: int, current: int) -> int:
        return int(self.residual)


def flops(config: Knn, sizes: Sizes) -> int:
    """2·K·V·width of the space for the likenesses and 2·K·V·d for W x, both dense; 2·V·d for likeness to the prompt."""
    pairs, text = sizes.kept * sizes.current, sizes.current if config.text_weight else 0
    return config.comparing(sizes, pairs) + 2 * (pairs + text) * sizes.geometry.width


@part(
    "merger",
    "knn",
    Knn,
    flops=flops,
    reads="value",
    paper="LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models (ICCV 2025); Recoverable "
    "Compression (AAAI 2025) for into: last and text_weight",
)
def knn(view: StageView, kept: Kept, config: Knn) -> Tensor:
    """Add to each kept token, with weight 1, its nearest others by their scores, kept ones too; then take the mean.

    Scores are scaled to sum 1 over the tokens that are not protected, as an attention row does. PruMerge adds x + Σ a·x
    and leaves the sum as it is; a row of W sums to 1, so ours is shorter by 1 + Σ a (some percent with attention).
    Neighbourhoods overlap and leave gaps: a token's mass is split among the rows that take it in, and lost where none
    does, unless `residual` collects it.
    """
    import torch

    from autoprune.pruning.criteria.similarity import Similarity, similarity
    from autoprune.pruning.merging import as_attention, fused, itself, receivers, taking, unselected
    from autoprune.pruning.tensors import take, unit

    rows, own = unit(config.features(view)), itself(view, kept)
    there = view.candidates
    if config.into == "last":
        there = unselected(view, kept) | (there & receivers(kept, "last"))
    others = there[:, None] & taking(view, kept, config.into)[..., None] & ~own
    cosine = take(rows, kept.index, 1) @ rows.transpose(1, 2)
    if config.text_weight:
        cosine = cosine + config.text_weight * similarity(view, Similarity())[:, None]
    cosine = cosine.masked_fill(~others, float("-inf"))
    nearest = cosine.argsort(dim=2, descending=True, stable=True)[..., : config.neighbours]
    near = torch.zeros_like(others).scatter(2, nearest, True) & others
    weights = (own & ~kept.extra[..., None]) + near * as_attention(kept.scores, view.candidates)[:, None]
    return weights + fused(view, kept) if config.residual else weights
