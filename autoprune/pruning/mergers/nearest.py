"""Every dropped token joins the kept token it resembles most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from autoprune.pruning.decoder_signals import ProjectedFeatures
from autoprune.pruning.encoder_signals import EncoderFeatures
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.signals import PartConfig, Signal, Site

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.stage import Kept
    from autoprune.pruning.view import StageView


class Nearest(PartConfig):
    """space: which feature rows likeness (cosine) is measured on."""

    space: Literal["projected", "encoder", "hidden"] = "projected"

    def signals(self, site: Site) -> tuple[Signal, ...]:
        if self.space == "hidden":
            return ()
        return (ProjectedFeatures(),) if self.space == "projected" else (EncoderFeatures(),)


def flops(config: Nearest, sizes: Sizes) -> int:
    """2·K·V·width of the space for the likenesses and 2·K·V·d for W x, both dense."""
    return 2 * sizes.kept * sizes.current * (sizes.width(config.space) + sizes.geometry.width)


@part(
    "merger",
    "nearest",
    Nearest,
    flops=flops,
    reads="no",
    paper="VScan: Rethinking Visual Token Reduction (2025)",
)
def nearest(view: StageView, kept: Kept, config: Nearest) -> Tensor:
    """Average, by mass, each kept token with the dropped ones most similar to it. Protected tokens take nothing in."""
    import torch

    from autoprune.pruning.tensors import nearest as find
    from autoprune.pruning.tensors import take, unit

    rows = unit(view.features(config.space))
    open_to_all = kept.valid & view.candidates.gather(1, kept.index)
    _, target = find(rows, take(rows, kept.index, 1), open_to_all[:, None])
    order = torch.arange(kept.index.shape[1], device=rows.device)
    dropped = view.valid & ~kept.mask & open_to_all.any(1, keepdim=True)
    joins = (target[:, None] == order[:, None]) & dropped[:, None]
    itself = torch.nn.functional.one_hot(kept.index, view.valid.shape[1]).bool()
    return (joins | itself).float()
