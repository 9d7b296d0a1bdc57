"""The one equation: scores -> K kept tokens -> W -> kept' = W x, for all samples of a batch at once.

The engine owns every invariant (exact K, protected survive, raster order, ties, identity at K = V); parts choose.

Signatures: criterion(view, config) -> scores [B, V] · selector(view, scores or None, quota, free [B, V],
taken [B, V], config) -> mask [B, V] with exactly `quota` True inside `free` · merger(view, kept, config) -> membership
[B, K, V] >= 0 (how much of each token a row takes in, relative to its other tokens), None for plain selection, `Parked`
for one that sets the others aside, or `Anchored` · count rule(view, scores or None, among [B, V], config) -> how many
of `among` stay, [B]. The engine weighs membership by mass and scales rows of W to sum 1; a token's mass is split among
the rows that take it in, by their weights. In a parity run that says `rows: sum`, membership itself is W. `taken` are
the tokens that earlier picks of the stage chose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from autoprune.policy.budget import asked
from autoprune.pruning.counting import granted
from autoprune.pruning.grouping import select
from autoprune.pruning.picking import beside, fitting
from autoprune.pruning.plan import PlannedPick, PlannedStage, evaluate
from autoprune.pruning.tensors import best, take, true_first
from autoprune.pruning.view import Quota

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.pruning.view import StageView


@dataclass(frozen=True, eq=False)
class Kept:
    """The kept tokens. mask [B, V]; index [B, K] in raster order, padded at the end; valid [B, K]; extra [B, K] marks
    rows that a merger makes. scores [B, V] are the last pick's, None where it has none; last [B, V]: what it chose,
    None for all that is selected."""

    mask: Tensor
    index: Tensor
    valid: Tensor
    extra: Tensor
    scores: Tensor | None
    last: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Anchored:
    """What a merger gives back that names the anchors of its extra rows: membership [B, K, V], and the token [B, K] at
    which each row stands, `Kept.index` but for extra rows. Rows need not be in raster order."""

    membership: Tensor
    index: Tensor


@dataclass(frozen=True, eq=False)
class Parked:
    """What a merger gives back that sets the dropped tokens aside: the kept token [B, V] that each token follows."""

    follows: Tensor


@dataclass(frozen=True, eq=False)
class Reduction:
    """A stage's outcome: what is kept, W [B, K, V] (None = plain rows), the new mass [B, K], and where the dropped are
    set aside whom each token follows, [B, V]."""

    kept: Kept
    matrix: Tensor | None
    mass: Tensor
    follows: Tensor | None = None

    def rows(self, hidden: Tensor) -> Tensor:
        """kept' = W x for hidden [B, V, D]."""
        plain = take(hidden, self.kept.index, 1)
        if self.matrix is None:
            return plain
        used = (self.matrix > 0).any(1)[..., None]  # what nobody takes in may hold anything, also NaN
        merged = (self.matrix @ hidden.float().masked_fill(~used, 0)).to(hidden.dtype)
        return torch.where(self.kept.valid[..., None], merged, plain)

    def projected(self, hidden: Tensor, encoder: Tensor, projector: Callable[[Tensor], Tensor]) -> Tensor:
        """kept' = projector(W x) for x = encoder [B, V, w], what entered it; rows that take nothing in, newlines among
        them, stay those of hidden [B, V, D]."""
        plain = take(hidden, self.kept.index, 1)
        if self.matrix is None:
            return plain
        alone = torch.nn.functional.one_hot(self.kept.index, self.matrix.shape[2])
        mixed = (self.matrix != alone).any(2) & self.kept.valid
        merged = projector(self.rows(encoder)).to(hidden)
        return torch.where(mixed[..., None], merged, plain)


def reduce(
    planned: PlannedStage,
    view: StageView,
    keep: Sequence[int],
    now: Sequence[int],
    protected: Sequence[int],
    scored: Tensor | None = None,
    counted: Sequence[Sequence[int]] | None = None,
) -> Reduction:
    """Carry out one stage. keep, now, protected: K, V and protected tokens of each sample; keep <= now. `scored`: the
    first pick's scores where they are known already. `counted`: what rules found for each sample, pick by pick."""
    extras = [
        min(planned.merge.config.extra(k, v), k - p) if p < k < v else 0
        for k, v, p in zip(keep, now, protected, strict=True)
    ]
    kept = _choose(planned, view, keep, protected, extras, scored, counted)
    membership: Tensor | Anchored | Parked | None = planned.merge.run(view, kept, planned.merge.config)
    if membership is None or isinstance(membership, Parked):
        follows = None if membership is None else membership.follows
        return Reduction(kept, None, view.mass.gather(1, kept.index) * kept.valid, follows)
    if isinstance(membership, Anchored):
        kept, membership = _anchored(kept, membership)
    members = kept.valid[..., None] & view.valid[:, None]
    if any(k == v for k, v in zip(keep, now, strict=True)):  # samples that lose nothing beside others that do
        less = torch.tensor([k < v for k, v in zip(keep, now, strict=True)], device=members.device)
        members = members & (less[:, None, None] | torch.nn.functional.one_hot(kept.index, members.shape[2]).bool())
    weights = (membership.float() * view.mass[:, None]).masked_fill(~members, 0)
    matrix = weights / weights.sum(2, keepdim=True).clamp(min=1e-12)
    per_weight = view.mass.masked_fill(~view.valid, 0) / matrix.sum(1).clamp(min=1e-30)  # stays finite
    mass = (matrix * per_weight[:, None]).sum(2)
    if planned.stage.rows == "sum":
        matrix = membership.float().masked_fill(~members, 0)
    return Reduction(kept, matrix, mass)


def _anchored(kept: Kept, made: Anchored) -> tuple[Kept, Tensor]:
    """Move extra rows to the anchors that their merger names, back in raster order."""
    batch, count = kept.mask.shape
    place = made.index.masked_fill(~kept.valid, count)
    mask = torch.zeros(batch, count + 1, dtype=torch.bool, device=place.device).scatter(1, place, True)[:, :-1]
    order = place.argsort(dim=1, stable=True)
    index, extra = true_first(mask, place.shape[1]), kept.extra.gather(1, order)
    return Kept(mask, index, kept.valid, extra, kept.scores, kept.last), take(made.membership, order, 1)


def _choose(
    planned: PlannedStage,
    view: StageView,
    keep: Sequence[int],
    protected: Sequence[int],
    extras: Sequence[int],
    scored: Tensor | None,
    counted: Sequence[Sequence[int]] | None,
) -> Kept:
    """Run the picks in order, then anchor the merger's extra rows at the best dropped tokens."""
    picks: Sequence[PlannedPick] = planned.picks
    device = view.valid.device
    alive = torch.tensor([k > 0 for k in keep], device=device)[:, None]
    chosen = view.valid & ~view.candidates & alive
    room = [max(k - p - e, 0) for k, p, e in zip(keep, protected, extras, strict=True)]
    if counted is not None and len(picks) == len(counted[0]):
        quotas = [granted(found, r) for found, r in zip(counted, room, strict=True)]
    else:
        quotas = [asked(picks, r) for r in room]
    flexible = any(pick.overlap or pick.dilate for pick in picks)
    stage, left = torch.tensor(list(keep), device=device), torch.tensor(room, device=device)
    taken = before = torch.zeros_like(view.valid)
    scores = None
    for i, pick in enumerate(picks):
        scores = None if pick.score is None else scored if scored is not None and i == 0 else evaluate(pick.score, view)
        here, earlier = [q[i] for q in quotas], max(sum(q[:i]) for q in quotas)
        earlier, before = max(room) if flexible and i else earlier, taken
        quota = Quota(torch.tensor(here, device=device), max(here), min(here), earlier, stage)
        if flexible:
            taken, left = _flexibly(planned, i, view, scores, quota, taken, left)
        else:
            rule = pick.count or planned.rule
            taken = taken | select(pick, view, scores, quota, view.candidates & ~taken, taken, rule)
        scores = scores.mean(2) if scores is not None and scores.ndim == 3 else scores
    chosen = chosen | taken
    anchors = torch.zeros_like(chosen)
    if any(extras):
        by = torch.zeros_like(view.mass) if scores is None else scores
        anchors = best(by, view.candidates & ~chosen, torch.tensor(list(extras), device=device))
        chosen = chosen | anchors
    index = true_first(chosen, max(max(keep), 1))
    return Kept(chosen, index, chosen.gather(1, index), anchors.gather(1, index), scores, taken & ~before)


def _flexibly(
    planned: PlannedStage,
    number: int,
    view: StageView,
    scores: Tensor | None,
    quota: Quota,
    taken: Tensor,
    left: Tensor,
) -> tuple[Tensor, Tensor]:
    """One pick of a stage whose picks may overlap or dilate: what is taken then [B, V], and the room left [B].

    The last takes all of that room; the others never more than there is."""
    pick, last = planned.picks[number], number == len(planned.picks) - 1
    each = left if last else quota.each if pick.overlap else torch.minimum(quota.each, left)
    before = torch.zeros_like(taken) if pick.overlap else taken
    free = view.candidates & ~before
    quota = Quota(each, quota.most, 0, quota.earlier, quota.stage)
    found = first = select(pick, view, scores, quota, free, before, planned.rule)
    if pick.dilate:
        found = found | (beside(view.grid, found, view.valid) & free)
    ranked = scores.mean(2) if scores is not None and scores.ndim == 3 else scores
    new = fitting(found & ~taken, first, ranked, left)
    return taken | new, left - new.sum(1)
