"""Round by round, the most duplicated tokens go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import FeatureSpace, SpaceConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import Quota, StageView

By = Literal["max", "sum"]
Split = Literal["alternate", "half", "full"]


class Peel(SpaceConfig):
    """split: who may go and whom it is compared with, in a list by falling score (raster order without scores).
    `alternate`: the first, third, … against the others (ToMe, VisPruner); `half`: the lower half against the upper
    (Zero-TPrune); `full`: everyone against everyone else (SAINT). by: `max` or `sum` of the cosines to those. step: how
    many go in a round, at most; null: all that may (ToMe). space: which feature rows the cosines are measured on."""

    split: Split = "alternate"
    by: By = "max"
    step: int | None = Field(8, ge=1, strict=True)
    space: FeatureSpace = "encoder"

    def rounds(self, current: int, kept: int) -> int:
        """Rounds until `kept` of `current` tokens are left; no sample of fewer tokens or more to keep takes longer."""
        count = 0
        while current > kept:
            able = current if self.split == "full" else (current + 1) // 2
            current -= min(able if self.step is None else self.step, able, current - kept)
            count += 1
        return count


def flops(config: Peel, sizes: Sizes) -> int:
    """2·V²·w for the cosines, once; the rounds compare and add."""
    return config.comparing(sizes, sizes.current**2)


@part(
    "selector",
    "peel",
    Peel,
    flops=flops,
    reads="order",
    paper="VisPruner (ICCV 2025); ToMe (ICLR 2023); Zero-TPrune (CVPR 2024) for split: half; SAINT (2025) for split: "
    "full, by: sum",
)
def peel(view: StageView, scores: Tensor | None, quota: Quota, free: Tensor, taken: Tensor, config: Peel) -> Tensor:
    """Until K are left: split the list in two, drop up to `step` of the one side that are most like the other side.

    Among equally redundant tokens the earlier in the list stays. Earlier picks are not compared with (VisPruner). ToMe,
    Zero-TPrune and SAINT compare keys. The V² cosines of a sample are held.
    """
    import torch

    from autoprune.pruning.tensors import best, rank, take, unit

    order = rank(torch.zeros_like(view.mass) if scores is None else scores, free).argsort(1)
    alive = free.gather(1, order)
    rows = take(unit(config.features(view)), order, 1).masked_fill(~alive[..., None], 0)
    cosine = rows @ rows.transpose(1, 2)
    for _ in range(config.rounds(free.shape[1], quota.least)):
        able, others = _sides(alive, config.split)
        count = torch.minimum(alive.sum(1) - quota.each, able.sum(1)).clamp(max=config.step or free.shape[1])
        gone = best(_redundancy(cosine, others, config.by).flip(1), able.flip(1), count)
        alive = alive & ~gone.flip(1)
    return torch.zeros_like(free).scatter(1, order, alive)


def _sides(alive: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """Who may go, and whom they are compared with: masks [B, V] over the list."""
    if split == "full":
        return alive, alive
    place, count = alive.cumsum(1) - 1, alive.sum(1, keepdim=True)
    able = place % 2 == 0 if split == "alternate" else place >= count // 2
    return alive & able, alive & ~able


def _redundancy(cosine: Tensor, others: Tensor, by: By) -> Tensor:
    """Highest cosine [B, V] of each token to the others [B, V], or their sum; none to itself. cosine [B, V, V]."""
    import torch

    from autoprune.pruning.tensors import CHUNK

    away, found = ~others[:, None], []
    for first in range(0, cosine.shape[1], CHUNK):
        part = cosine[:, first : first + CHUNK]
        own = torch.arange(first, first + part.shape[1], device=part.device)[:, None]
        out = away | (own == torch.arange(cosine.shape[2], device=part.device))
        found.append(part.masked_fill(out, float("-inf")).amax(2) if by == "max" else part.masked_fill(out, 0).sum(2))
    return torch.cat(found, 1)
