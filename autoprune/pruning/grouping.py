"""A pick that works in a partition of the tokens: how the count is shared out, and the selector run in every group.

The groups of all samples stand side by side like samples of their own, so a selector needs to know nothing of them.
A partition follows from the images' layouts, which are on the host; so the number of groups and the largest group are
known without asking the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from autoprune.pruning.signals import PartConfig
from autoprune.pruning.view import Grid, Quota, StageView

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.models.family import ImageLayout
    from autoprune.pruning.plan import PlannedPick, Use
    from autoprune.pruning.signals import Signal
    from autoprune.pruning.view import TextSpace


GRAIN = 2**40  # of a token: above the rounding of float64, below what two remainders differ by


class GroupConfig(PartConfig):
    """split: how groups share the pick's count. `equal`: as evenly as their sizes allow; `size`: in proportion to their
    tokens; `proportional`: to the sums of their scores; `mean`: to the means of their scores; `whole`: whole groups,
    best mean score first (the last may be cut); `rule`: to what the stage's count rule finds in each; `pooled`: as
    without groups. The scores are those of `allocate` where the pick has it, else its own."""

    split: Literal["equal", "size", "proportional", "mean", "whole", "rule", "pooled"] = "equal"

    def weights(self, there: Partition, view: StageView, scores: Tensor | None, free: Tensor) -> Tensor:
        """In what proportion the groups share the count, [B, G]. Scores [B, V]: negative ones count as nothing, and
        without them every token counts alike."""
        sizes = sums(there, free.double())
        if self.split == "equal":
            return (sizes > 0).double()
        if self.split == "size" or scores is None:
            return sizes
        mass = sums(there, scores.double().nan_to_num(nan=0).clamp(min=0) * free)
        return mass / sizes.clamp(min=1) if self.split == "mean" else mass


@dataclass(frozen=True, eq=False)
class Partition:
    """Group number of each token [B, V], from 0 in every sample; how many groups there are at most, and how many
    tokens the largest has at most."""

    ids: Tensor
    groups: int
    largest: int


def partition(use: Use, layouts: Sequence[ImageLayout], per_sample: Sequence[int]) -> tuple[Tensor, int, int]:
    """The partition of the unpruned tokens of all images, one after the other [Σ n], and its two host numbers.

    `per_sample`: how many images each sample has. Groups never reach over images.
    """
    import torch

    ids, groups, largest, position = [], 1, 1, 0
    for count in per_sample:
        offset = 0
        for layout in layouts[position : position + count]:
            own = use.run(layout, use.config)
            sizes = torch.bincount(own)
            ids.append(own + offset)
            offset, largest = offset + len(sizes), max(largest, int(sizes.amax()))
        position, groups = position + count, max(groups, offset)
    return torch.cat(ids) if ids else torch.zeros(0, dtype=torch.long), groups, largest


def select(
    pick: PlannedPick,
    view: StageView,
    scores: Tensor | None,
    quota: Quota,
    free: Tensor,
    taken: Tensor,
    rule: Use | None = None,
) -> Tensor:
    """Mask [B, V] of the pick's choice, exactly `quota` True inside `free`. `rule`: the stage's count rule. Scores of a
    pick whose group are heads are [B, V, H]."""
    from autoprune.pruning.plan import evaluate

    run, config = pick.select.run, pick.select.config
    chosen: Tensor
    if pick.group is None:
        chosen = run(view, scores, quota, free, taken, config)
        return chosen
    if scores is not None and scores.ndim == 3:
        chosen = pick.group.run(pick, view, scores, quota, free, taken)
        return chosen
    group: Any = pick.group.config
    if group.split == "pooled":
        chosen = run(view, scores, quota, free, taken, config)
        return chosen
    there = view.partition(pick.group)
    by = scores if pick.allocate is None else evaluate(pick.allocate, view)
    if group.split == "whole":
        chosen = run(view, _means(there, by, free), quota, free, taken, config)
        return chosen
    sizes = sums(there, free.double()).long()
    if group.split == "rule" and rule is not None:
        weights = shared_by_rule(rule, pick.group, view, by, free).clamp(min=0)
    else:
        weights = group.weights(there, view, by, free)
    counts = allocate(quota.each, sizes, weights)
    side = Side(there, view)
    inner = Quota(counts.flatten(), min(quota.most, there.largest))
    grouped = None if scores is None else side.take(scores)
    chosen = run(side.view(), grouped, inner, side.mask(free), side.mask(taken), config)
    return side.back(chosen)


def shared_by_rule(rule: Use, group: Use, view: StageView, scores: Tensor | None, free: Tensor) -> Tensor:
    """How many free tokens [B, G] the count rule finds in each group; below 0 where it lets nothing through."""
    side = Side(view.partition(group), view)
    grouped = None if scores is None else side.take(scores)
    found: Tensor = rule.run(side.view(), grouped, side.mask(free), rule.config)
    return found.view(len(view.valid), -1)


def allocate(total: Tensor, sizes: Tensor, weights: Tensor) -> Tensor:
    """Shares [B, G] of `total` [B] in proportion to `weights` [B, G] and at most `sizes` [B, G]; sums are exact.

    Largest remainder (ties to the lower group) over the groups that are not full. total <= sum of sizes.
    """
    import torch

    groups = sizes.shape[1]
    full = sizes == 0
    for _ in range(groups):
        ideal = _ideal(total, sizes, weights, full)
        full = full | (ideal >= sizes)
    ideal = _ideal(total, sizes, weights, full)
    shares = torch.where(full, sizes, ideal.floor().long())
    left = total - shares.sum(1)
    remainder = ((ideal - ideal.floor()) * GRAIN).round().masked_fill(full, -1)  # what should be equal is
    place = remainder.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return shares + ((place < left[:, None]) & ~full)


def _ideal(total: Tensor, sizes: Tensor, weights: Tensor, full: Tensor) -> Tensor:
    """What the groups with room would get if tokens could be divided, [B, G] in float64."""
    left = (total - (sizes * full).sum(1)).clamp(min=0).double()
    open_weights = weights.double().masked_fill(full, 0)
    alike = (~full).double()
    usable = (open_weights.sum(1, keepdim=True) > 0) & open_weights.sum(1, keepdim=True).isfinite()
    shares = open_weights.where(usable, alike)
    return left[:, None] * shares / shares.sum(1, keepdim=True).clamp(min=1e-300)


def sums(there: Partition, values: Tensor) -> Tensor:
    """Sums [B, G] of values [B, V] over each group."""
    return values.new_zeros(values.shape[0], there.groups).scatter_add(1, there.ids, values)


def _means(there: Partition, scores: Tensor | None, free: Tensor) -> Tensor:
    """Every token's score replaced by the mean over the free tokens of its group."""
    values = free.double() if scores is None else scores.double().nan_to_num(nan=0) * free
    means = sums(there, values) / sums(there, free.double()).clamp(min=1)
    return means.gather(1, there.ids).float()


class Side:
    """The groups of all samples side by side: [B, V] <-> [B·G, M]."""

    def __init__(self, there: Partition, view: StageView) -> None:
        import torch

        self._view, self._groups, self._most = view, there.groups, min(there.largest, view.valid.shape[1])
        batch, width = view.valid.shape
        ids = there.ids.masked_fill(~view.valid, there.groups)
        order = ids.argsort(dim=1, stable=True)
        ordered = ids.gather(1, order)
        first = torch.searchsorted(
            ordered, torch.arange(there.groups, device=ids.device).expand(batch, -1).contiguous()
        )
        inside = torch.arange(width, device=ids.device) - first.gather(1, ordered.clamp(max=there.groups - 1))
        slot = ordered * self._most + inside  # padding has the number of one group more
        cells = there.groups * self._most
        slot = torch.where(ordered < there.groups, slot, cells)
        table = torch.full((batch, cells + 1), -1, dtype=torch.long, device=ids.device).scatter(1, slot, order)
        self._index = table[:, :cells]
        self._real = (self._index >= 0).view(batch * there.groups, self._most)

    def take(self, values: Tensor) -> Tensor:
        """[B, V, ...] -> [B·G, M, ...]; what stands in padding means nothing."""
        from autoprune.pruning.tensors import take

        picked = take(values, self._index.clamp(min=0), 1)
        return picked.reshape(-1, self._most, *values.shape[2:])

    def mask(self, values: Tensor) -> Tensor:
        return self.take(values) & self._real

    def back(self, chosen: Tensor) -> Tensor:
        """Mask [B·G, M] -> [B, V]."""
        batch, width = self._view.valid.shape
        flat = chosen.view(batch, -1)
        hit = self._index.masked_fill(~flat | (self._index < 0), width)
        return flat.new_zeros(batch, width + 1).scatter(1, hit, True)[:, :width]

    def view(self) -> StageView:
        """The stage as a selector sees it, every group a sample."""
        base, grid = self._view, self._view.grid

        def provide(signal: Signal) -> Tensor:
            return self.take(base.provide(signal))

        def text(space: TextSpace) -> tuple[Tensor, Tensor]:
            rows, real = base.text(space)
            return rows.repeat_interleave(self._groups, 0), real.repeat_interleave(self._groups, 0)

        def within(use: Use) -> Partition:
            whole = base.partition(use)
            return Partition(self.take(whole.ids), whole.groups, min(whole.largest, self._most))

        def refuse(asked: Any) -> Any:
            raise NotImplementedError("a group has none of the prompt's pairs")

        return StageView(
            site=base.site,
            hidden=self.take(base.hidden),
            valid=self.mask(base.valid),
            candidates=self.mask(base.candidates),
            tokens=self.take(base.tokens),
            place=self.take(base.place),
            mass=self.take(base.mass),
            provide=provide,
            grid=Grid(self.take(grid.image), self.take(grid.segment), self.take(grid.row), self.take(grid.column)),
            text=text,
            partition=within,
            unpruned=base.unpruned.repeat_interleave(self._groups, 0),
            pairs=refuse,
        )
