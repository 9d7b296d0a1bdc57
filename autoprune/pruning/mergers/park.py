"""The dropped tokens are set aside; a later stage may bring them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import FeatureSpace, SpaceConfig

if TYPE_CHECKING:
    from autoprune.pruning.stage import Kept, Parked
    from autoprune.pruning.view import StageView


class Park(SpaceConfig):
    """space: which feature rows likeness (cosine) to the kept tokens is measured on."""

    space: FeatureSpace = "hidden"


def flops(config: Park, sizes: Sizes) -> int:
    """2·K·V·width of the space for the likenesses."""
    return 2 * sizes.kept * sizes.current * sizes.width(config.space)


@part(
    "merger",
    "park",
    Park,
    flops=flops,
    reads="no",
    paper="LVLM_CSP: Accelerating LVLMs via Clustering, Scattering, and Pruning for Reasoning Segmentation (2025)",
)
def park(view: StageView, kept: Kept, config: Park) -> Parked:
    """Keep the selected rows as they are; every other follows the one it resembles most, which may be a protected one.

    Ties go to the earlier token. Without a later `restore` this is `drop`.
    """
    from autoprune.pruning.stage import Parked
    from autoprune.pruning.tensors import nearest, take, unit

    rows = unit(view.features(config.space))
    _, row = nearest(rows, take(rows, kept.index, 1), kept.valid[:, None])
    return Parked(kept.index.gather(1, row))
