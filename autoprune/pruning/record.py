"""The record of a prefill: which visual tokens entered which decoder layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoprune.pruning.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Budget:
    """Σ n_l / (L · N): over all samples, and the largest of any one sample. 1 = unpruned."""

    mean: float
    maximum: float


@dataclass(eq=False)
class Run:
    """One prefill. n: visual tokens of each sample before pruning; lengths[l]: of each sample entering layer l;
    counts[s]: of each sample after stage s; guarded: the rule of the policy's guard that fired for each, or ''."""

    n: list[int]
    depth: int
    lengths: list[list[int]] = field(default_factory=list)
    layouts: list[Layout] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)
    guarded: list[str] = field(default_factory=list)

    def index(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """Logical column [B, n_l] of each physical row entering a layer, and which are real (None = all)."""
        return self.layouts[layer].index, self.layouts[layer].valid

    def kept(self, layer: int, sample: int) -> list[int]:
        """Numbers (raster order, from 0) of a sample's visual tokens entering a layer."""
        count = self.lengths[layer][sample]
        return [int(t) for t in self.tokens[layer][sample, :count].tolist()]

    def budget(self) -> Budget:
        """Budget as the engine counted it; 1 where there were no visual tokens."""
        return budget_of(self.lengths, self.n, self.depth)


def budget_of(lengths: Sequence[Sequence[int]], n: Sequence[int], depth: int) -> Budget:
    per_sample = [sum(layer[b] for layer in lengths) / (depth * count) for b, count in enumerate(n) if count]
    if not per_sample:
        return Budget(1.0, 1.0)
    total = sum(sum(layer) for layer in lengths)
    return Budget(total / (depth * sum(n)), max(per_sample))


def text_only(ids: Tensor, depth: int, stages: int) -> Run:
    """The record of a prompt without visual tokens."""
    import torch

    batch, width = ids.shape
    layout = Layout(torch.arange(width, device=ids.device).expand(batch, width), None, width)
    none = ids.new_zeros(batch, 0)
    zeros = [[0] * batch for _ in range(max(depth, stages))]
    return Run([0] * batch, depth, zeros[:depth], [layout] * depth, [none] * depth, zeros[:stages])
