"""A determinantal point process: relevant tokens that span as much as they can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import FeatureSpace, SpaceConfig
from autoprune.pruning.signals import Number

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import Quota, StageView

SPANNED = 1e-5  # squared length, of 1, that is left of a token which the chosen ones explain up to rounding
LEAST = 1e-6  # relevance of the lowest score


class Dpp(SpaceConfig):
    """space: which feature rows likeness (cosine) is measured on. relevance_weight: theta in [0, 1), how much relevance
    counts against diversity: r = exp(theta / (2 (1 - theta)) · s); without it r is the score s in [0, 1] itself."""

    space: FeatureSpace = "encoder"
    relevance_weight: Number | None = Field(None, ge=0, lt=1)


class Residual:
    """r_i² · |what is left of unit row i beside the chosen ones|²: the factor by which det L of the set would grow.

    The rows of `basis` [B, t, V] are those of the Cholesky factor of the chosen tokens' cosines.
    """

    def __init__(self, rows: Tensor, relevance: Tensor, steps: int) -> None:

        self.rows, self.relevance, self.done = rows, relevance, 0
        self.basis = rows.new_zeros(rows.shape[0], steps, rows.shape[1])
        self.left = (rows.square().sum(2) > SPANNED).to(rows.dtype)  # exactly 1, or 0 for a row of zeros

    def values(self) -> Tensor:
        """Tokens of which nothing is left follow all others, by relevance."""
        import torch

        gain = self.relevance.square() * self.left
        return torch.where(self.left > SPANNED, gain, -1 / (1 + self.relevance))

    def add(self, index: Tensor) -> None:
        self.remove(index, self.left.gather(1, index) > SPANNED)

    def remove(self, index: Tensor, live: Tensor) -> None:
        """Take the direction of token index [B, 1] out of all rows, in the samples of live [B, 1]."""
        import torch

        from autoprune.pruning.greedy import cosine_to
        from autoprune.pruning.tensors import take

        step = cosine_to(self.rows, index)
        if self.done:
            basis = self.basis[:, : self.done]
            step = step - (take(basis, index, 2).transpose(1, 2) @ basis)[:, 0]
        length = self.left.gather(1, index).clamp(min=SPANNED).sqrt()
        step = torch.where(live, step / length, 0.0)
        self.basis[:, self.done] = step
        self.left = self.left - step.square()
        self.done += 1


def flops(config: Dpp, sizes: Sizes) -> int:
    """T steps, earlier picks included: 2·T·V·w for the cosines, T·(T - 1)·V for the residuals."""
    steps = sizes.earlier + sizes.kept
    return config.comparing(sizes, steps * sizes.current) + steps * sizes.current * (steps - 1)


@part(
    "selector",
    "dpp",
    Dpp,
    flops=flops,
    reads="value",
    paper="CDPruner: Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs "
    "(NeurIPS 2025)",
)
def dpp(view: StageView, scores: Tensor | None, quota: Quota, free: Tensor, taken: Tensor, config: Dpp) -> Tensor:
    """Greedy MAP of the DPP with kernel L_ij = r_i cos_ij r_j, by incremental Cholesky; earlier picks are given.

    r comes from the score, scaled to [0, 1] over the candidates (CDPruner: likeness to the question); without scores
    r = 1. Once the chosen tokens span all others, these follow by relevance.
    """
    import torch

    from autoprune.pruning.greedy import greedy, unit_interval
    from autoprune.pruning.tensors import first_best, unit

    relevance = torch.ones_like(view.mass) if scores is None else unit_interval(scores, view.candidates)
    if config.relevance_weight is None:
        relevance = relevance.clamp(min=LEAST)
    else:
        relevance = (config.relevance_weight / (2 - 2 * config.relevance_weight) * relevance).exp()
    rows = unit(config.features(view)).double()  # what is left of a token is a difference of nearly equal numbers
    gain = Residual(rows, relevance, quota.earlier + quota.most)
    given = taken
    for _ in range(quota.earlier):
        index = first_best(given.float(), given)[:, None]
        gain.remove(index, given.gather(1, index) & (gain.left.gather(1, index) > SPANNED))
        given = given.scatter(1, index, False)
    return greedy(gain, quota, free)
