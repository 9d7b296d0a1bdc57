"""What mergers share. Tokens are [B, V], kept rows [B, K], membership [B, K, V]. Torch is imported inside functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.stage import Kept
    from autoprune.pruning.view import StageView

Into = Literal["all", "last"]
LEAST = 1e-6  # of a row's best score: every member stays one


def itself(view: StageView, kept: Kept) -> Tensor:
    """[B, K, V] bool: the token at which a row stands."""
    import torch

    return torch.nn.functional.one_hot(kept.index, view.valid.shape[1]).bool()


def taking(view: StageView, kept: Kept, into: Into = "all") -> Tensor:
    """[B, K] bool: selected rows that may take tokens in: real, not protected, not extra; `last`: of the stage's last
    pick."""
    return kept.valid & ~kept.extra & (view.candidates & receivers(kept, into)).gather(1, kept.index)


def receivers(kept: Kept, into: Into) -> Tensor:
    """[B, V] bool: the kept tokens, or those of the stage's last pick."""
    return kept.last if into == "last" and kept.last is not None else kept.mask


def unselected(view: StageView, kept: Kept) -> Tensor:
    """[B, V] bool: what no pick chose. The anchors of extra rows are among them, protected tokens are not."""
    import torch

    anchors = torch.zeros_like(view.valid).scatter(1, kept.index, kept.extra)
    return view.candidates & (~kept.mask | anchors)


def joined(target: Tensor, members: Tensor, rows: int) -> Tensor:
    """[B, K, V] bool: token v of `members` [B, V] joins row target[b, v]."""
    import torch

    order = torch.arange(rows, device=target.device)
    return (target[:, None] == order[:, None]) & members[:, None]


def by_score(joins: Tensor, scores: Tensor | None) -> Tensor:
    """Members weighted by their score, relative to the best of their row.

    NaN and scores at or below 0 weigh `LEAST` of the best; where no member of a row is above 0, and without scores,
    all weigh the same.
    """
    import torch

    if scores is None:
        return joins.float()
    weight = joins * positive(scores)[:, None]
    weight = weight / weight.amax(2, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    return joins * weight.clamp(min=LEAST)


def as_attention(scores: Tensor | None, among: Tensor) -> Tensor:
    """Scores as weights that sum to 1 over `among` [B, V], as a row of attention does; 0 for all else.

    Where no score is above 0, and without scores, all weigh the same.
    """
    import torch

    weight = among.float()
    if scores is not None:
        above = positive(scores).masked_fill(~among, 0)
        best = above.amax(1, keepdim=True)
        weight = torch.where(best > 0, above / best.clamp(min=torch.finfo(above.dtype).tiny), weight)
    return weight / weight.sum(1, keepdim=True).clamp(min=1)


def positive(scores: Tensor) -> Tensor:
    """Scores in float32, 0 where they are NaN or negative."""
    return scores.float().nan_to_num(nan=0.0, neginf=0.0).clamp(min=0)


def fused(view: StageView, kept: Kept) -> Tensor:
    """[B, K, V] >= 0: the score-weighted members of a single extra row, which takes in all that was not selected.

    Scaled as attention is: with the scores of all tokens at sum 1.
    """
    members = unselected(view, kept)
    best = as_attention(kept.scores, view.candidates).masked_fill(~members, 0).amax(1)
    return by_score(kept.extra[..., None] & members[:, None], kept.scores) * best.clamp(min=LEAST)[:, None, None]
