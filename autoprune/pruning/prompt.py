"""What a prefill starts from: the unpruned sequence of every sample, and whose images are whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from autoprune.errors import AutoPruneError

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.facts import ImageFacts


@dataclass(frozen=True, eq=False)
class Prompt:
    """The unpruned sequence. Masks are [B, S]; `asked` are the prompt rows, `text` those after the last visual token,
    `last` [B, 1] the last of them, `told` those that are text after any visual token. pair [B, S]: number of the run of
    visual tokens that a column is in or after, from 0, -1 before the first. Lists are per sample, on the host."""

    visual: Tensor
    real: Tensor | None
    asked: Tensor
    text: Tensor
    last: Tensor
    told: Tensor
    pair: Tensor
    n: list[int]
    lengths: list[int]
    text_rows: int
    told_rows: int
    pairs: int

    @classmethod
    def read(cls, visual: Tensor, real: Tensor | None, answer_start: Tensor | None) -> Prompt | None:
        """The one wait for the device. None where no sample has a visual token."""
        columns = torch.arange(visual.shape[1], device=visual.device)
        present = torch.ones_like(visual) if real is None else real
        visual = visual & present
        asked = present if answer_start is None else present & (columns < answer_start.to(visual.device)[:, None])
        last = (columns * asked).amax(1, keepdim=True)
        has_image = visual.any(1, keepdim=True)
        last_visual = torch.where(has_image, (columns * visual).amax(1, keepdim=True), visual.shape[1])
        text = (asked & (columns > last_visual)) | ((columns == last) & has_image)
        starts = visual & ~torch.nn.functional.pad(visual, (1, -1))
        pair = starts.cumsum(1) - 1
        told = asked & ~visual & (pair >= 0)
        sums = [mask.sum(1) for mask in (visual, present, text, told, starts)]
        n, lengths, rows, told_rows, pairs = torch.stack(sums).tolist()
        if not any(n):
            return None
        real = present if min(lengths) < visual.shape[1] else None
        return cls(visual, real, asked, text, last, told, pair, n, lengths, max(rows), max(told_rows), max(pairs))


def real_columns(mask: Any, width: int) -> Tensor | None:
    """Which columns [B, S] hold real tokens. In a 4D causal mask the last row sees exactly those."""
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    if mask is None:
        return None
    if mask.ndim == 2:
        return torch.as_tensor(mask[:, :width].bool())
    last = mask[:, 0, -1, :width]
    return torch.as_tensor(last if last.dtype == torch.bool else last == 0)


def grid_of(facts: Sequence[ImageFacts], ordinal: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image number in the sample, segment, row and column of each sample's tokens, [B, N] each."""
    layouts = [f.layout for f in facts]
    image = torch.repeat_interleave(torch.tensor([f.tokens for f in facts]))
    columns = [torch.cat([getattr(x, name) for x in layouts]) for name in ("segment", "row", "column")]
    image, segment, row, column = (values.to(ordinal.device)[ordinal] for values in (image, *columns))
    return image - image[:, :1], segment, row, column


def per_sample(facts: Sequence[ImageFacts], n: Sequence[int]) -> tuple[list[int], list[int]]:
    """Images and newlines of each sample. Raises AutoPruneError where an image would straddle two samples."""
    images, counted, position = [], [], 0
    for expected in n:
        seen = newlines = 0
        first = position
        while seen < expected and position < len(facts):
            seen += facts[position].tokens
            newlines += facts[position].layout.newlines
            position += 1
        if seen != expected:
            raise AutoPruneError(f"a sample has {expected} image placeholders but its images have {seen} features")
        images.append(position - first)
        counted.append(newlines)
    return images, counted
