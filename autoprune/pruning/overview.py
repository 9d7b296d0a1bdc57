"""How the overview of a picture shares a count out among the tiles it shows (HiRED)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from autoprune.pruning.grouping import Partition, Side, sums
from autoprune.pruning.plan import Use
from autoprune.pruning.signals import PartConfig
from autoprune.pruning.tensors import best

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.models.family import ImageLayout
    from autoprune.pruning.view import StageView


class Covering(PartConfig):
    """No parameters."""


def covering(layout: ImageLayout, config: Any) -> Tensor:
    """Tile [n] that shows what a token of the overview shows, by the middle of its cell; of a tile's token its own.

    The high-resolution grid and the overview's show the same picture, so rows and columns correspond as their numbers
    do. (The release reads the overview's flat list of tokens as a list of tiles and so cuts bands, not tiles.)
    """
    from autoprune.pruning.groups.tile import Tile, tile

    own = tile(layout, Tile())
    high, low = (((layout.segment == s) & (layout.source >= 0)).nonzero()[:, 0] for s in (1, 0))
    if not len(high) or not len(low):
        return own
    rows, columns = int(layout.row[high].amax()) + 1, int(layout.column[high].amax()) + 1
    tall, wide = int(layout.row[low].amax()) + 1, int(layout.column[low].amax()) + 1
    number = torch.zeros(rows, columns, dtype=torch.long)
    number[layout.row[high], layout.column[high]] = own[high]
    row = (2 * layout.row[low] + 1) * rows // (2 * tall)
    column = (2 * layout.column[low] + 1) * columns // (2 * wide)
    own = own.clone()
    own[low] = number[row, column]
    return own


def seen_from_above(there: Partition, view: StageView, scores: Tensor | None, free: Tensor, share: float) -> Tensor:
    """Weights [B, G] of the tiles `there`: of an image's free tokens, `share` for its overview, the rest divided by how
    many of the overview's best (1 - share) tokens each tile covers. An image without tiles: its free tokens."""
    batch, groups = view.valid.shape[0], there.groups
    above = view.valid & (view.grid.segment == 0)
    side = Side(there, view)
    among = side.mask(above)
    count = ((1 - share) * among.sum(1).double() + 0.5).floor().long()
    values = torch.zeros(view.valid.shape, device=free.device) if scores is None else scores
    top = side.back(best(side.take(values), among, count)) & above
    covers = Partition(view.partition(Use(covering, Covering())).ids, groups, there.largest)

    image = torch.zeros(batch, groups, dtype=torch.long, device=free.device)
    image = image.scatter_reduce(1, there.ids, view.grid.image.masked_fill(~view.valid, 0), "amax")
    is_above = sums(there, above.double()) > 0
    hits = sums(covers, top.double()).masked_fill(is_above, 0)
    sizes = sums(there, free.double())

    def of_image(values: Tensor) -> Tensor:
        """Sums over the groups of an image, at each of them: [B, G] -> [B, G]."""
        return values.new_zeros(values.shape).scatter_add(1, image, values).gather(1, image)

    size, seen = of_image(sizes), of_image(hits)
    tiled = of_image((sizes > 0).double()) > is_above.double()
    weights = torch.where(is_above, size * share, size * (1 - share) * hits / seen.clamp(min=1))
    return torch.where(tiled & (seen > 0), weights, sizes)
