"""Every dropped token joins the kept token it resembles most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import SpaceConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.stage import Kept
    from autoprune.pruning.view import StageView


class Nearest(SpaceConfig):
    """space: which feature rows likeness (cosine) is measured on. norm: what a token counts in the mean, its mass (as
    ToMe's size does) or 1 (VScan, AIM). The two differ where an earlier stage has merged."""

    norm: Literal["mass", "mean"] = "mass"


def flops(config: Nearest, sizes: Sizes) -> int:
    """2·K·V·width of the space for the likenesses and 2·K·V·d for W x, both dense."""
    pairs = sizes.kept * sizes.current
    return config.comparing(sizes, pairs) + 2 * pairs * sizes.geometry.width


@part(
    "merger",
    "nearest",
    Nearest,
    flops=flops,
    reads="no",
    paper="VScan: Rethinking Visual Token Reduction (2025)",
)
def nearest(view: StageView, kept: Kept, config: Nearest) -> Tensor:
    """Average each kept token with the dropped ones most similar to it. Protected tokens take nothing in.

    Cosine of feature rows, ties to the earlier token. All mass is conserved.
    """
    from autoprune.pruning.merging import itself, joined, taking, unselected
    from autoprune.pruning.tensors import nearest as find
    from autoprune.pruning.tensors import take, unit

    rows, open_rows = unit(config.features(view)), taking(view, kept)
    _, target = find(rows, take(rows, kept.index, 1), open_rows[:, None])
    members = unselected(view, kept) & open_rows.any(1, keepdim=True)
    joins = (joined(target, members, kept.index.shape[1]) | itself(view, kept)).float()
    return joins if config.norm == "mass" else joins / view.mass.clamp(min=1e-6)[:, None]
