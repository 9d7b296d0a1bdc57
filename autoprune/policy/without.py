"""A policy without one of its stages, the others keeping what they keep in it: what is that stage good for?

A stage that counts from what is there (`of_current`) or takes up the rest of a budget (`to_budget`, a solved curve)
would make up for the one that is gone. So these become counts first, or fractions of N where N differs. Where a rule
decides on the run they stay as they are: nobody knows what they will find.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from autoprune.document.numbers import text
from autoprune.policy.budget import count_steps, fractions
from autoprune.policy.curves import CurveSpec
from autoprune.policy.expand import Placed, expand
from autoprune.policy.guard import bound
from autoprune.policy.model import AnyStage, CurveStage, KeepSpec, Stage

if TYPE_CHECKING:
    from autoprune.policy.document import Policy


def without_stages(policy: Policy, depth: int, tokens: int | None) -> list[Policy]:
    """The policy without its first stage, without its second, …; a curve or a range of layers is one stage. `tokens` is
    N where all samples share it. A stage that drops nothing in the whole policy is left out throughout: with a count of
    its own it would begin to. Raises `Infeasible` where the whole policy is."""
    fixed = fix_counts(policy, depth, tokens).stages
    idle = _idle(policy, depth, tokens)
    return [
        replace(policy, stages=tuple(fixed[j] for j in left), guard=bound(policy.guard, left))
        for i in range(len(fixed))
        for left in [[j for j in range(len(fixed)) if j != i and j not in idle]]
    ]


def fix_counts(policy: Policy, depth: int, tokens: int | None) -> Policy:
    """The same policy with keeps that do not depend on the stages before them."""
    placed = expand(policy, depth, tokens)
    left = _left(placed, depth, tokens)
    if left is None:
        return policy
    return replace(policy, stages=tuple(_fixed(stage, placed, left) for stage in policy.stages))


def _left(placed: tuple[Placed, ...], depth: int, tokens: int | None) -> list[KeepSpec] | None:
    """What each step leaves, as a count or as a fraction of N; None where that is not known before a run."""
    steps = [(p.layer, p.keep) for p in placed]
    if any(p.keep.decided for p in placed):
        return None
    if tokens is not None:
        return [_count(k) for k in count_steps(steps, tokens, depth, [0] * len(steps))]
    if any(p.keep.kind == "tokens" for p in placed):
        return None  # counts beside fractions of an N that differs
    return [KeepSpec("fraction", f) for f in fractions(steps, depth)]


def _idle(policy: Policy, depth: int, tokens: int | None) -> set[int]:
    """Numbers of the stages that drop nothing and do nothing else."""
    placed = expand(policy, depth, tokens)
    left = _left(placed, depth, tokens)
    if left is None or any(p.keep.restores for p in placed):
        return set()
    active, before = set[int](), Fraction(tokens or 1)
    for place, keep in zip(placed, left, strict=True):
        acts = keep.value < before or place.stage.positions != "keep" or place.stage.attend is not None
        active |= {i for i, stage in enumerate(policy.stages) if acts and stage is place.stage}
        before = keep.value
    return set(range(len(policy.stages))) - active


def _count(count: int) -> KeepSpec:
    return KeepSpec("tokens", Fraction(count)) if count else KeepSpec("fraction", Fraction(0))


def _fixed(stage: AnyStage, placed: tuple[Placed, ...], left: list[KeepSpec]) -> AnyStage:
    own = [(p, keep) for p, keep in zip(placed, left, strict=True) if p.stage is stage]
    if isinstance(stage, CurveStage):
        if stage.curve.solve is None or not own:
            return stage
        return replace(stage, curve=CurveSpec("steps", [[p.layer, text(p.keep.value)] for p, _ in own]))
    if isinstance(stage, Stage) and stage.until is None and stage.keep.kind in ("of_current", "to_budget"):
        keep = own[0][1]
        return replace(stage, keep=replace(keep, path=stage.keep.path, rule=stage.keep.rule))
    return stage
