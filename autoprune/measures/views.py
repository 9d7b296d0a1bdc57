"""What a model measure sees of a run: one batch, scored at its answer positions and at the tokens it asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoprune.measures.capture import State, Tokens

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class View:
    """B samples with T answer tokens in all (end tokens included), V words.

    `logits` [T, V]: what predicts each answer token, float32. `reference` [T, V]: the same from the unpruned model,
    where a measure needs it. `targets` [T]: the answer tokens. `owners` [T]: each one's sample. `ends`: ids that end a
    generation. `states[tokens, l]` [R, width]: those tokens' hidden states after l decoder layers (before the final
    norm), sample after sample, and `reference_states` the same from the unpruned model, for every state a measure asked
    for; `rows[tokens]` [R]: each one's sample. `readout` makes logits [R, V], float32, of hidden states, by the final
    norm and the head. `records`: ids.
    """

    size: int
    depth: int
    logits: Tensor
    targets: Tensor
    owners: Tensor
    ends: Tensor
    reference: Tensor | None = None
    states: Mapping[State, Tensor] = field(default_factory=dict)
    reference_states: Mapping[State, Tensor] = field(default_factory=dict)
    rows: Mapping[Tokens, Tensor] = field(default_factory=dict)
    readout: Callable[[Tensor], Tensor] | None = None
    records: tuple[str, ...] = ()

    def mean_per_sample(self, values: Tensor, owners: Tensor | None = None) -> Tensor:
        """[R] -> [B]: the mean over each sample's values; `owners` [R] says whose they are (the answer tokens')."""
        owners = self.owners if owners is None else owners
        total = values.new_zeros(self.size).index_add_(0, owners, values)
        count = values.new_zeros(self.size).index_add_(0, owners, values.new_ones(values.shape))
        return total / count

    def right(self) -> Tensor:
        """[T] bool: greedy decoding makes this token. Any token that ends a generation is as good as another."""
        import torch

        guess = self.logits.argmax(-1)
        both_end = torch.isin(guess, self.ends) & torch.isin(self.targets, self.ends)
        return (guess == self.targets) | both_end

    def all_right(self) -> Tensor:
        """[B] 0 or 1: greedy decoding makes exactly this answer and stops."""
        wrong = (~self.right()).to(self.logits.dtype)
        errors = wrong.new_zeros(self.size).index_add_(0, self.owners, wrong)
        return (errors == 0).to(self.logits.dtype)
