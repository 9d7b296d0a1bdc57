"""A prompt as pairs of a picture and the text after it: demonstrations, and the query that they are for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["query", "context"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """The last pair is the query, those before it are its context; what precedes the first picture is in none. Pictures
    without text between them are one pair.

    tokens [B, V] int: each visual token's pair, from 0. text [B, R, w]: prompt rows; numbers [B, R] int: their pairs,
    -1 where a row is not real. last [B, 1] int: the query's number. most: pairs of the sample that has most, on the
    host.
    """

    tokens: Tensor
    text: Tensor
    numbers: Tensor
    last: Tensor
    most: int

    def role(self, of: Role) -> Tensor:
        """Visual tokens of that role, [B, V] bool."""
        return self.tokens == self.last if of == "query" else self.tokens < self.last

    def text_means(self) -> Tensor:
        """The mean row of each pair's text, [B, P, w] in float32; zero for a pair without text."""
        sums, counts = self._gathered(self.text, self.numbers)
        return sums / counts.clamp(min=1)

    def mean(self, features: Tensor, valid: Tensor, of: Role) -> Tensor:
        """The mean [B, w] over the role's visual tokens features [B, V, w] (where `valid` [B, V]) and text. A query
        without context is its own context."""
        import torch

        sums, counts = self._gathered(self.text, self.numbers)
        seen, tokens = self._gathered(features, torch.where(valid, self.tokens, -1))
        sums, counts = sums + seen, counts + tokens
        number, last = torch.arange(self.most, device=sums.device), self.last
        query = number == last
        meant = query if of == "query" else torch.where(last > 0, number < last, query)
        sums, counts = sums * meant[..., None], counts * meant[..., None]
        return sums.sum(1) / counts.sum(1).clamp(min=1)

    def _gathered(self, rows: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Sums [B, P, w] of rows [B, n, w] by pair, and how many they are [B, P, 1]; rows of pair -1 are left out."""
        import torch

        inside = numbers >= 0
        rows = rows.float().masked_fill(~inside[..., None], 0)
        place = numbers.clamp(min=0)
        sums = rows.new_zeros(rows.shape[0], self.most, rows.shape[2])
        counts = rows.new_zeros(rows.shape[0], self.most)
        return (
            sums.scatter_add(1, place[..., None].expand_as(rows), rows),
            counts.scatter_add(1, place, inside.to(torch.float32))[..., None],
        )
