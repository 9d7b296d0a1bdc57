"""A diverse set: each new token is the farthest from those already chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from autoprune.pruning.decoder_signals import ProjectedFeatures
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig, Signal, Site

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import Quota, StageView


class Far(PartConfig):
    """space: which feature rows distances are measured on."""

    space: Literal["projected", "hidden"] = "projected"

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (ProjectedFeatures(),) if self.space == "projected" else ()


def flops(config: Far, sizes: Sizes) -> int:
    """2·k·V·d for the k steps, 2·V²·d for the distances to earlier picks, and again for a start without scores."""
    matrices = 1 if sizes.scored else 2
    return 2 * (sizes.kept + matrices * sizes.current) * sizes.current * sizes.width(config.space)


@part(
    "selector",
    "far",
    Far,
    flops=flops,
    reads="order",
    paper="DivPrune: Diversity-based Visual Token Pruning (CVPR 2025)",
)
def far(view: StageView, scores: Tensor | None, quota: Quota, free: Tensor, taken: Tensor, config: Far) -> Tensor:
    """Max-min cosine distance, greedily (DivPrune, Algorithm 1).

    Starts from earlier picks where there are any, else from the best score, else from the token whose nearest
    neighbour is farthest. One step per chosen token, each over the whole batch.
    """
    import torch

    from autoprune.pruning.tensors import first_best, nearest, take, unit

    rows = unit(view.features(config.space))
    distance = 1 - nearest(rows, rows, taken[:, None])[0]  # infinite where nothing has been picked yet
    start = 1 - nearest(rows, rows, free[:, None], skip_self=True)[0] if scores is None else scores.float()
    key = torch.where(taken.any(1, keepdim=True), distance, start)
    chosen = torch.zeros_like(free)
    for step in range(quota.most):
        index = first_best(key, free & ~chosen)[:, None]
        pick = torch.zeros_like(free).scatter(1, index, (step < quota.each)[:, None])
        chosen = chosen | pick
        to_new = 1 - (rows @ take(rows, index, 1).transpose(1, 2))[..., 0]
        key = distance = torch.minimum(distance, to_new)
    return chosen
