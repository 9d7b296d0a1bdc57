"""Counts that the sample itself decides: what a count rule is given, and what comes of it.

A rule looks at the scores of a stage's first pick (some look at the model instead) and says how many tokens stay. The
length of the sequence follows from that, so the host waits for the device once at such a stage; every other stage is
counted before the model runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.pruning.signals import PartConfig

if TYPE_CHECKING:
    from torch import Tensor

    from autoprune.policy.budget import Counting
    from autoprune.pruning.plan import PlannedStage
    from autoprune.pruning.view import StageView


CLOSED = -1  # what a rule finds that lets nothing through, not even what is protected


class CountConfig(PartConfig):
    """Base of the parameters of count rules."""


def decide(planned: PlannedStage, view: StageView, scores: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """How many candidates of each sample the stage's rule keeps (below 0: nothing at all may stay), and the scores
    [B, V] it looked at (those that are given, where they are known already): counts [B, 1], or [B, picks] where later
    picks have rules of their own.

    Where the first pick's groups share by the rule (`split: rule`), every group decides for itself, and they add up.
    """
    import torch

    from autoprune.pruning.grouping import select, shared_by_rule
    from autoprune.pruning.plan import evaluate
    from autoprune.pruning.view import Quota

    if planned.rule is None:
        raise ValueError("the stage has no count rule")
    first, *others = planned.picks
    if first.score is not None and scores is None:
        scores = evaluate(first.score, view)
    if first.group is not None and first.group.config.split == "rule":  # type: ignore[attr-defined]
        by = scores if first.allocate is None else evaluate(first.allocate, view)
        found = [shared_by_rule(planned.rule, first.group, view, by, view.candidates).sum(1)]
    else:
        found = [planned.rule.run(view, _together(scores), view.candidates, planned.rule.config)]
    taken, pick, by = torch.zeros_like(view.candidates), first, scores
    for other in others:
        if other.count is not None:
            free, width = view.candidates & ~taken, view.valid.shape[1]
            quota = Quota(found[-1].clamp(min=0), width, 0, width)
            taken = taken | select(pick, view, by, quota, free, taken, pick.count or planned.rule)
            pick, by = other, None if other.score is None else evaluate(other.score, view)
            left = view.candidates & ~taken
            found.append(other.count.run(view, _together(by), left, other.count.config).clamp(min=0))
    return torch.stack(found, 1), scores


def _together(scores: Tensor | None) -> Tensor | None:
    """What heads say together."""
    return scores.mean(2) if scores is not None and scores.ndim == 3 else scores


def granted(counts: Sequence[int], room: int) -> list[int]:
    """What picks choose that found `counts`, exactly `room` together: later ones go short first, and the last takes
    what is over."""
    found: list[int] = []
    for count in counts[:-1]:
        found.append(min(max(count, 0), room - sum(found)))
    return [*found, room - sum(found)]


def shared_out(
    planned: PlannedStage, view: StageView, counting: Sequence[Counting], now: Sequence[int], depth: int
) -> list[list[int]]:
    """Counts [layer][sample] of a budget that a stage shares with those after it, by its rule's curve. The host waits.

    `counting`: how far each sample's counts have come; `now`: its visual tokens."""
    from autoprune.document.numbers import exact
    from autoprune.policy.budget import rounded
    from autoprune.policy.retention import retained

    if planned.rule is None:
        raise ValueError("layers share a budget, but no rule says how")
    heights = planned.rule.run(view, None, view.candidates, planned.rule.config).tolist()
    first, layers = planned.stage.layer, len(heights[0])
    weights = [1] * (layers - 1) + [depth - first - layers + 1]
    most = exact(planned.rule.config.most)  # type: ignore[attr-defined]
    counts = []
    for height, sample, current in zip(heights, counting, now, strict=True):
        cap = min(current, rounded(most, sample.n)) if current else 0
        if sample.steps[sample.number][1].kind != "shared":  # a guard has let it off
            counts.append((0,) * layers)
            continue
        left = sample.left(first, planned.stage.keep.value)
        least = min(cap, max(1, sample.protected[sample.number]))
        counts.append(retained(height, weights, left, cap, least) if cap else (0,) * layers)
    return [list(layer) for layer in zip(*counts, strict=True)]


def finite(scores: Tensor, among: Tensor) -> Tensor:
    """[B, V] bool: candidates whose score is a number."""
    return among & scores.isfinite()


def at_least_one(counts: Tensor, among: Tensor) -> Tensor:
    """Counts [B] between 1 and the number of candidates; 0 where there is none."""
    import torch

    there = among.sum(1)
    return torch.minimum(counts.long().clamp(min=1), there)
