"""How far two sets of token rows are apart. Every function takes the pruned rows first, the unpruned ones second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FEWEST = 3  # the least rows of which CKA says anything: centred, any two pairs of rows are alike
ROWS_AT_ONCE = 128  # of logits as wide as the vocabulary


def cosine(pruned: Tensor, full: Tensor) -> Tensor:
    """[R]: 1 - cosine similarity of each row."""
    from torch.nn.functional import cosine_similarity

    return (1 - cosine_similarity(pruned, full, dim=-1)).clamp(min=0)


def l2(pruned: Tensor, full: Tensor) -> Tensor:
    """[R]: length of each row's difference, relative to the unpruned row."""
    from torch.linalg import vector_norm

    found: Tensor = vector_norm(pruned - full, dim=-1) / vector_norm(full, dim=-1)
    return found


def cka(pruned: Tensor, full: Tensor, counts: Sequence[int]) -> Tensor:
    """[B]: 1 - linear CKA (Kornblith et al. 2019) of each sample's rows, of which `counts` says how many there are.

    With X and Y the rows less their mean: 1 - |YᵀX|² / (|XᵀX| |YᵀY|), Frobenius norms, from the Gram matrices. Blind to
    rotations and to one scale for all rows. NaN where a sample's rows are all the same.
    """
    import torch

    found = []
    for one, other in zip(torch.split(pruned, list(counts)), torch.split(full, list(counts)), strict=True):
        x, y = (rows - rows.mean(0) for rows in (one, other))
        own, theirs = x @ x.T, y @ y.T
        found.append(1 - (own * theirs).sum() / (own.norm() * theirs.norm()))
    return torch.stack(found).clamp(min=0)


def kl(pruned: Tensor, full: Tensor) -> Tensor:
    """[R]: KL(full || pruned) of the distributions that logits [R, V] stand for."""
    from torch.nn.functional import kl_div, log_softmax

    wanted, got = log_softmax(full, -1), log_softmax(pruned, -1)
    divergence = kl_div(got, wanted, reduction="none", log_target=True).sum(-1)
    return divergence.clamp(min=0)  # rounding alone can make it negative


def read_out_kl(pruned: Tensor, full: Tensor, readout: Callable[[Tensor], Tensor]) -> Tensor:
    """[R]: `kl` of what the model's head makes of hidden states, a few rows at a time."""
    import torch

    pairs = zip(torch.split(pruned, ROWS_AT_ONCE), torch.split(full, ROWS_AT_ONCE), strict=True)
    return torch.cat([kl(readout(one), readout(other)) for one, other in pairs])
