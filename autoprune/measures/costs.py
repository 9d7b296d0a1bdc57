"""What a policy costs, from numbers alone: no model is run and no weight is read.

Formulas (one sample, n_l visual positions and t text positions entering decoder layer l, s = t + n_l):

* vision tower, per picture with p patches and T = p + CLS tokens: patch embedding 2·p·w·c·k²; each executed block
  8·T·w² (four projections) + 4·T²·w (attention) + 4·T·w·m (two-layer MLP; gated 6·T·w·m). Where a block attends within
  windows of t patches, T² is the sum of their t²;
* projector (two layers): 2·(p/u)·(f·h' + h'·d) per picture, where u patches become one row and h' lies between the
  layers; with one layer 2·(p/u)·f·d;
* decoder layer: 4·s·d·(h + g)·e (query, output; key, value) + 4·s²·h·e (attention) + 6·s·d·m (gated MLP; else 4·s·d·m);
* head: 2·d·V, for the last position only, as `generate` does.

w, m, k, c: width, MLP width, patch side, channels; d: decoder width, h and g heads and key-value heads of size e; f the
width of the features that are projected. A multiply-add is two operations. Attention counts the full square: that is
what the kernels execute with a mask, and a causal kernel saves the same half with and without pruning. Norms,
activations and softmax are left out (about 1 %).

What deciding costs is apart (`measures/selection.py`): the formulas stand with the parts.

Key-value cache after the prefill: sum over layers of 2·s·g·e·bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from autoprune.errors import BadInput
from autoprune.measures.selection import Sample, Selection
from autoprune.policy import budget
from autoprune.policy.geometry import Geometry, PatchGrid, Pictures
from autoprune.policy.resolved import ResolvedPolicy


@dataclass(frozen=True)
class SampleCost:
    """One sample. `unpruned` is its N; `visual[l]` the visual positions entering decoder layer l; `text` its other
    prompt positions; operations and bytes as in the module's formulas. `selection_flops` (scores, selection, merging)
    are not among `prefill_flops`."""

    unpruned: int
    visual: tuple[int, ...]
    text: int
    prefill_flops: int
    kv_bytes: int
    selection_flops: int


def costs(
    resolved: ResolvedPolicy,
    geometry: Geometry,
    visual_counts: Sequence[int],
    text_lengths: Sequence[int],
    dtype_bytes: int,
    pictures: Sequence[Pictures] | None = None,
    newlines: Sequence[int] | None = None,
    decided: Sequence[tuple[int, ...]] | None = None,
) -> tuple[SampleCost, ...]:
    """The cost of every sample: `visual_counts` are the samples' N, `text_lengths` their other prompt positions.

    `pictures`: how many inputs the vision tower sees per sample (default: N / tokens per image, which must be fixed);
    of a tower that takes pictures of any size the patch grid of each.
    `newlines`: how many of a sample's visual positions are separators, which no stage drops (default: none).
    `decided`: the counts of a run, where rules decide some of them (without it: the most they may find).
    Raises policy.budget's Infeasible where a budget cannot be met, BadInput where number or size of the pictures are
    unknown.
    """
    if pictures is None:
        if not geometry.tokens_per_image:
            raise BadInput(
                f"{geometry.family}: images have different numbers of tokens; say how many pictures there are"
            )
        pictures = [n // geometry.tokens_per_image for n in visual_counts]
    held = [
        budget.separators(resolved, count, geometry.protects_newlines) for count in newlines or [0] * len(visual_counts)
    ]
    found_on_run: Sequence[tuple[int, ...] | None] = decided or [None] * len(visual_counts)
    keys = list(zip(visual_counts, held, found_on_run, strict=True))
    lengths = {key: budget.lengths(resolved, *key) for key in set(keys)}
    deciding = lru_cache(maxsize=None)(Selection(resolved, geometry).flops)
    found = []
    for key, text, seen in zip(keys, text_lengths, pictures, strict=True):
        (n, protected, kept), visual = key, lengths[key]
        flops = tower_flops(geometry, seen) + decoder_flops(geometry, visual, text)
        stored = cache_bytes(geometry, visual, text, dtype_bytes)
        found.append(SampleCost(n, visual, text, flops, stored, deciding(Sample(n, protected, text, seen, kept))))
    return tuple(found)


def tower_flops(geometry: Geometry, pictures: Pictures) -> int:
    """Vision tower and projector for all pictures of a sample. Raises BadInput where their size is unknown."""
    grids = geometry.vision.grids(pictures)
    return sum(picture_flops(geometry, grid) for grid in grids)


@lru_cache(maxsize=1024)
def picture_flops(geometry: Geometry, grid: PatchGrid) -> int:
    """Vision tower and projector for one picture."""
    vision = geometry.vision
    patches = grid[0] * grid[1]
    tokens = patches + vision.has_cls
    embedding = 2 * patches * vision.width * vision.channels * vision.patch_size**2
    blocks = vision.depth if vision.executed is None else vision.executed
    matrices = 3 if vision.gated_mlp else 2
    block = 8 * tokens * vision.width**2 + 2 * matrices * tokens * vision.width * vision.mlp
    seen = (blocks - len(vision.windowed)) * tokens**2
    if vision.windowed:
        seen += len(vision.windowed) * _squares(grid[0], vision.window) * _squares(grid[1], vision.window)
    rows = patches // geometry.merge_unit
    projector = (1 + len(vision.deepstack)) * 2 * rows * geometry.projector_weights
    return embedding + blocks * block + 4 * seen * vision.width + projector


def _squares(length: int, window: int) -> int:
    """Sum of squares of the pieces when a length is cut into windows; the last may be shorter."""
    whole, rest = divmod(length, window)
    return whole * window**2 + rest**2


def decoder_flops(geometry: Geometry, visual: Sequence[int], text: int) -> int:
    """The decoder's prefill at these lengths, and the head for one position."""
    query, key = geometry.heads * geometry.head_dim, geometry.kv_heads * geometry.head_dim
    matrices = 3 if geometry.gated_mlp else 2
    weights = geometry.width * (2 * query + 2 * key + matrices * geometry.mlp)
    total = 2 * geometry.width * geometry.vocabulary
    for n in visual:
        s = n + text
        total += 2 * s * weights + 4 * s**2 * query
    return total


def cache_bytes(geometry: Geometry, visual: Sequence[int], text: int, dtype_bytes: int) -> int:
    """Keys and values of every layer after the prefill."""
    return sum(2 * (n + text) * geometry.kv_heads * geometry.head_dim * dtype_bytes for n in visual)
