"""Rows as left-padded batches of similar length. Answers are the last columns, and pruning leaves those in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from autoprune.calibration.encoding import Row

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B rows of prompt + answer, left padded to S columns.

    `inputs`: the model's arguments. `indices`: each row's place among the rows it came from. `answer_start` [B]: the
    column of its first answer token (S without an answer). `targets` [T]: all answer tokens, row after row;
    `owners` [T]: the row each belongs to; `columns` [T]: the column whose logits predict it, counted from the right
    end (-2 = the last but one), which pruning does not move.
    """

    inputs: dict[str, Tensor]
    indices: tuple[int, ...]
    answer_start: Tensor
    targets: Tensor
    owners: Tensor
    columns: Tensor

    @property
    def size(self) -> int:
        return len(self.indices)

    @property
    def last_prompt(self) -> Tensor:
        """[B]: the last prompt token's column, counted from the right end."""
        return self.answer_start - self.inputs["input_ids"].shape[1] - 1

    @property
    def scored(self) -> int:
        """How many of the last columns hold every answer position's prediction."""
        return int(-self.last_prompt.min())


def halves(records: int, least: int) -> tuple[int, ...]:
    """Where no batch goes across: behind a half of so many records, a quarter, … down to `least`. What is made of the
    first records alone then is, for the most part, batches of the whole."""
    ends = {(2 * records + 2**part) >> (part + 1) for part in range(1, records.bit_length())}  # rounded half up
    return tuple(sorted(end for end in ends if least <= end < records))


def plan(lengths: Sequence[int], size: int, ends: Sequence[int] = ()) -> list[list[int]]:
    """Indices in groups of at most `size`, similar lengths together, none across one of the `ends` (ascending); longest
    first, so memory fails early or never."""
    groups = []
    for start, stop in pairwise([0, *ends, len(lengths)]):
        order = sorted(range(start, stop), key=lambda i: (-lengths[i], i))
        groups += [order[i : i + size] for i in range(0, len(order), size)]
    return sorted(groups, key=lambda group: -lengths[group[0]])


def batches(
    rows: Sequence[Row],
    answers: Sequence[tuple[int, ...]],
    size: int,
    pad: int,
    device: str = "cpu",
    first: int = 0,
    ends: Sequence[int] = (),
) -> Iterator[Batch]:
    """All rows with these answers, in batches of at most `size`, made one at a time. `first`: the place of the first
    row; no batch goes across a place of `ends`."""
    lengths = [row.length + len(answer) for row, answer in zip(rows, answers, strict=True)]
    inside = [end - first for end in ends if 0 < end - first < len(rows)]
    for group in plan(lengths, size, inside):
        places = [first + i for i in group]
        yield collate([rows[i] for i in group], [answers[i] for i in group], places, pad, device)


def collate(
    rows: Sequence[Row], answers: Sequence[tuple[int, ...]], indices: Sequence[int], pad: int, device: str = "cpu"
) -> Batch:
    """One batch of these rows."""
    import torch

    width = max(row.length + len(answer) for row, answer in zip(rows, answers, strict=True))
    inputs: dict[str, Tensor] = {}
    for name, like in rows[0].tokens.items():
        inputs[name] = like.new_full((len(rows), width), pad if name == "input_ids" else 0)
    inputs["attention_mask"] = torch.zeros(len(rows), width, dtype=torch.long)
    for b, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        end = width - len(answer)
        for name, value in row.tokens.items():
            inputs[name][b, end - row.length : end] = value
        inputs["input_ids"][b, end:] = torch.tensor(answer, dtype=torch.long)
        inputs["attention_mask"][b, end - row.length :] = 1
    for name in rows[0].vision:
        inputs[name] = _stack([row.vision[name] for row in rows])
    counts = torch.tensor([len(answer) for answer in answers])
    columns = [torch.arange(-len(answer) - 1, -1) for answer in answers]
    return Batch(
        inputs={name: value.to(device) for name, value in inputs.items()},
        indices=tuple(indices),
        answer_start=(width - counts).to(device),
        targets=torch.tensor([token for answer in answers for token in answer], dtype=torch.long, device=device),
        owners=torch.repeat_interleave(torch.arange(len(rows)), counts).to(device),
        columns=torch.cat(columns).to(device),
    )


def _stack(values: Sequence[Tensor]) -> Tensor:
    """Image tensors of several samples along dimension 0; where samples have different numbers of tiles in
    dimension 1, the missing ones are zeros (as the processors themselves pad them)."""
    import torch

    if values[0].dim() > 1 and len({value.shape[1] for value in values}) > 1:
        most = max(value.shape[1] for value in values)
        values = [
            torch.cat([v, v.new_zeros(v.shape[0], most - v.shape[1], *v.shape[2:])], dim=1) if v.shape[1] < most else v
            for v in values
        ]
    return torch.cat(list(values))
