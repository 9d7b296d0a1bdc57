"""Every dropped token joins the kept token it resembles most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from autoprune.pruning.merging import Into
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import SpaceConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.stage import Kept
    from autoprune.pruning.view import StageView


class Nearest(SpaceConfig):
    """space, key_layer, key_heads: which feature rows likeness (cosine) is measured on. norm: what a token counts in
    the mean: its mass (as ToMe's size does) or 1 (`mean`: VScan, AIM), which differ where an earlier stage has merged;
    with `target_mean` the kept token counts as much as all that join it together (VisionZip, which adds the two up).
    into: which kept tokens are joined, `all` or those of the stage's `last` pick (VisionZip's contextual ones)."""

    norm: Literal["mass", "mean", "target_mean"] = "mass"
    into: Into = "all"


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
    paper="VScan: Rethinking Visual Token Reduction (2025); VisionZip: Longer is Better but Not Necessary in Vision "
    "Language Models (CVPR 2025) for target_mean and into: last",
)
def nearest(view: StageView, kept: Kept, config: Nearest) -> Tensor:
    """Average each kept token with the dropped ones most similar to it. Protected tokens take nothing in.

    Cosine of feature rows, ties to the earlier token. All mass is conserved, if there is a token to join.
    """
    from autoprune.pruning.merging import itself, joined, taking, unselected
    from autoprune.pruning.tensors import nearest as find
    from autoprune.pruning.tensors import take, unit

    rows, open_rows = unit(config.features(view)), taking(view, kept, config.into)
    _, target = find(rows, take(rows, kept.index, 1), open_rows[:, None])
    members = unselected(view, kept) & open_rows.any(1, keepdim=True)
    own, others = itself(view, kept).float(), joined(target, members, kept.index.shape[1]).float()
    if config.norm == "target_mean":
        others = others / others.sum(2, keepdim=True).clamp(min=1)
    joins = own + others
    return joins if config.norm == "mass" else joins / view.mass.clamp(min=1e-6)[:, None]
