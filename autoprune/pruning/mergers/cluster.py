"""The best of the dropped tokens live on as a few cluster means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from autoprune.document.numbers import exact
from autoprune.pruning.parts import Sizes, part
from autoprune.pruning.selecting import FeatureSpace, SpaceConfig
from autoprune.pruning.signals import Number

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.stage import Anchored, Kept
    from autoprune.pruning.view import StageView

PER = 10  # recycled tokens for one more cluster
SPREAD = 40503  # 2^16 / golden ratio: multiples of it modulo 2^16 spread evenly


class Cluster(SpaceConfig):
    """space: which feature rows distances are measured on. share: of the tokens that are not selected, how many are
    recycled, by falling score; one cluster for every ten of them and one more."""

    space: FeatureSpace = "hidden"
    share: Number = Field(default=0.3, gt=0, le=1)

    @property
    def ratio(self) -> tuple[int, int]:
        """The share in small integers: what a document writes as 1/3 is 1 and 3."""
        return exact(self.share).limit_denominator(10**6).as_integer_ratio()

    def recycled(self, unselected: int) -> int:
        """floor(share·unselected)."""
        top, bottom = self.ratio
        return top * unselected // bottom

    def extra(self, kept: int, current: int) -> int:
        """c = recycled // 10 + 1 clusters (none of nothing), at most half of the rows. Each takes the place of a
        selected token, which may then be recycled too: the smallest c that agrees with itself."""
        rows = 0
        while (count := self.recycled(current - kept + rows)) and count // PER + 1 > rows:
            rows = count // PER + 1
        return min(rows, kept // 2)


def flops(config: Cluster, sizes: Sizes) -> int:
    """2·R²·width of the space for the distances, R = share·V, and 2·K·V·d for W x, both dense."""
    most = max(config.recycled(sizes.current), 1)
    return config.comparing(sizes, most**2) + 2 * sizes.kept * sizes.current * sizes.geometry.width


@part(
    "merger",
    "cluster",
    Cluster,
    flops=flops,
    reads="order",
    paper="SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference (ICML 2025)",
)
def cluster(view: StageView, kept: Kept, config: Cluster) -> Anchored:
    """Cluster the best unselected tokens (DPC-kNN); a cluster's mean by mass is a row at the place of its best token.

    Selected tokens stay as they are; unselected ones beyond `share` are lost, with their mass. Without scores those
    recycled are spread evenly over the raster. Equal densities and distances go to the earlier token; the release adds
    a random jitter.
    """
    import torch

    from autoprune.pruning.merging import itself, unselected
    from autoprune.pruning.stage import Anchored
    from autoprune.pruning.tensors import rank, take, true_first

    pool, wanted = unselected(view, kept), kept.extra.sum(1)
    place = rank(view.tokens * SPREAD % 2**16 if kept.scores is None else kept.scores, pool)
    top, bottom = config.ratio
    recycled = pool & (place < (top * pool.sum(1) // bottom)[:, None])
    chosen = true_first(recycled, max(config.recycled(pool.shape[1]), 1))
    alive, place = recycled.gather(1, chosen), place.gather(1, chosen)
    rows = take(config.features(view), chosen, 1).masked_fill(~alive[..., None], 0)
    label = _clusters(rows, alive, wanted)

    better = alive[:, None] & (place[:, None] < place[..., None]) & (label[:, None] == label[..., None])
    lead = alive & (wanted > 0)[:, None] & ~better.any(2)  # the best of its cluster
    anchors = true_first(torch.zeros_like(pool).scatter(1, chosen, lead), kept.index.shape[1])
    index = torch.where(kept.extra, anchors.gather(1, (kept.extra.long().cumsum(1) - 1).clamp(min=0)), kept.index)
    labels = torch.full_like(view.tokens, -1).scatter(1, chosen, label.masked_fill(~alive, -1))
    joins = recycled[:, None] & (labels.gather(1, index)[..., None] == labels[:, None])
    return Anchored(torch.where(kept.extra[..., None], joins, itself(view, kept)).float(), index)


def _clusters(rows: Tensor, alive: Tensor, wanted: Tensor) -> Tensor:
    """The centre [B, R] of each row's cluster: density peaks of rows [B, R, D], wanted [B] of them.

    With squared distances d² = |x - y|² / D, a row's density is exp(-mean of the `wanted` smallest d², its own 0
    included), its gap the distance to the nearest denser row (of the densest: the largest distance). The largest
    density x gap are centres, everything else joins the nearest centre. Logarithms keep both in range.
    """
    import torch

    from autoprune.pruning.tensors import best

    count, width = rows.shape[1:]
    order = torch.arange(count, device=rows.device)
    length = rows.square().sum(2)
    square = length[:, :, None] + length[:, None] - 2 * rows @ rows.transpose(1, 2)
    square = torch.minimum(square, square.transpose(1, 2)) / width  # the two neighbours of a pair tie exactly
    square = square.clamp(min=0).masked_fill(order == order[:, None], 0)
    dead = ~(alive[:, None] & alive[..., None])
    square = square.masked_fill(dead, float("inf"))

    near = order < wanted[:, None]
    lowest = square.sort(dim=2).values.masked_fill(~near[:, None], 0)
    density = -lowest.sum(2) / wanted[:, None].clamp(min=1)
    level = density[:, None] == density[..., None]
    denser = (density[:, None] > density[..., None]) | (level & (order < order[:, None]))
    gap = square.masked_fill(~denser, float("inf")).amin(2)
    largest = square.masked_fill(dead, 0).amax((1, 2))
    gap = torch.where(denser.any(2) & alive, gap, largest[:, None])
    centres = best(density + gap.log() / 2, alive, wanted)

    to_centre = square.masked_fill(~centres[:, None], float("inf"))
    nearest = torch.where(to_centre == to_centre.amin(2, keepdim=True), order, count).amin(2)
    return torch.where(centres, order, nearest)
