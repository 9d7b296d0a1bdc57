"""The dropped tokens live on in one extra row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.parts import part
from autoprune.pruning.signals import PartConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.stage import Kept
    from autoprune.pruning.view import StageView


class Residual(PartConfig):
    """No parameters."""

    def extra(self, kept: int) -> int:
        return 1


@part(
    "merger",
    "residual",
    Residual,
    reads="order",
    paper="EViT: Expediting Vision Transformers via Token Reorganizations (ICLR 2022)",
)
def residual(view: StageView, kept: Kept, config: Residual) -> Tensor:
    """One of the K rows is the mean, by mass, of all dropped tokens, at the place of the best-scoring one."""
    import torch

    itself = torch.nn.functional.one_hot(kept.index, view.valid.shape[1]).bool()
    dropped = view.valid & ~kept.mask
    return (itself | (kept.extra[..., None] & dropped[:, None])).float()
