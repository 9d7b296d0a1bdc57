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
from autoprune.policy.model import AnyStage, CurveStage, KeepSpec, Stage

if TYPE_CHECKING:
    from autoprune.policy.document import Policy


def without_stages(policy: Policy, depth: int, tokens: int | None) -> list[Policy]:
    """The policy without its first stage, without its second, …; a curve or a range of layers is one stage. `tokens` is
    N where all samples share it. Raises `Infeasible` where the whole policy is."""
    fixed = fix_counts(policy, depth, tokens).stages
    return [replace(policy, stages=fixed[:i] + fixed[i + 1 :]) for i in range(len(fixed))]


def fix_counts(policy: Policy, depth: int, tokens: int | None) -> Policy:
    """The same policy with keeps that do not depend on the stages before them."""
    placed = expand(policy, depth, tokens)
    steps = [(p.layer, p.keep) for p in placed]
    if any(p.keep.decided for p in placed):
        return policy
    if tokens is not None:
        left: list[KeepSpec] = [_count(k) for k in count_steps(steps, tokens, depth, [0] * len(steps))]
    elif any(p.keep.kind == "tokens" for p in placed):
        return policy  # counts beside fractions of an N that differs
    else:
        left = [KeepSpec("fraction", f) for f in fractions(steps, depth)]
    return replace(policy, stages=tuple(_fixed(stage, placed, left) for stage in policy.stages))


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
