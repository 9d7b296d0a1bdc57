"""What a model cannot give to the stages of a policy, where the policy's document asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

from autoprune.document.problems import Path, Problem
from autoprune.errors import BadInput
from autoprune.policy.budget import Infeasible
from autoprune.policy.canonical import resolve
from autoprune.policy.document import Policy
from autoprune.policy.geometry import Geometry
from autoprune.policy.model import AnyStage, KeepSpec, MixUse, Stage
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.plan import Place, Unusable, make_plan


def refusals(policy: Policy, geometry: Geometry, *, parity: bool = False) -> list[Problem]:
    """Every reason at the key that asks in vain: what single stages ask for, whatever stands before and after them.

    A named criterion's are said where the stage uses it. `parity`: as the policy's release does it."""
    asked = policy.parity.applied(policy.stages) if parity else policy.stages
    found: list[Problem] = []
    for stage, written in zip(asked, policy.stages, strict=True):
        for place, reason in _alone(policy, stage, geometry):
            if place == ("positions",):
                own = (*written.path, "positions") if written.positions == stage.positions else ("parity", "positions")
                found.append(Problem(own, "unsupported-by-model", reason, key=True))
            else:
                found += _asking(policy, stage, geometry, place, reason)
    return list(dict.fromkeys(found))


def _alone(policy: Policy, stage: AnyStage, geometry: Geometry) -> tuple[tuple[Place, str], ...]:
    """Why a model cannot carry out a stage, and at which place of it; nothing where the stage cannot stand alone."""
    if isinstance(stage, Stage) and stage.keep.kind != "rule":
        shared = stage.until is not None and stage.keep.kind == "to_budget"  # such a rule has no place in one stage
        stage = replace(stage, keep=KeepSpec("fraction", Fraction(1, 2), rule=None if shared else stage.keep.rule))
    try:
        parts, tokens = RegisteredParts(), geometry.tokens_per_image
        make_plan(resolve(replace(policy, stages=(stage,)), geometry, parts, tokens), geometry)
    except Unusable as error:
        return error.reasons
    except (BadInput, Infeasible):
        pass
    return ()


def _asking(policy: Policy, stage: AnyStage, geometry: Geometry, place: Place, reason: str) -> Iterator[Problem]:
    """The part that stands at this place of a stage; of a mix the members that are refused by themselves, too."""
    at: Any = stage
    for key in place:
        at = at[key] if isinstance(key, int) else getattr(at, key)
    path: Path = getattr(at, "path", (*stage.path, *place))
    members = [] if not isinstance(at, MixUse) else [name for name, weight in at.weights if weight]
    guilty = [m for m in members if (place, reason) in _alone(policy, _with_one(stage, place, m), geometry)]
    yield from (Problem((*path, "weights", name), "unsupported-by-model", reason, key=True) for name in guilty)
    if not guilty:
        yield Problem(path, "unsupported-by-model", reason)


def _with_one(stage: AnyStage, place: Place, member: str) -> AnyStage:
    """The stage with one member of the mix at ("pick", i, "score" or "allocate")."""
    _, number, key = place
    assert isinstance(number, int)
    mix = getattr(stage.pick[number], str(key))
    one = replace(mix, weights=((member, Fraction(1)),))
    picks = [replace(pick, **{str(key): one}) if i == number else pick for i, pick in enumerate(stage.pick)]
    return replace(stage, pick=tuple(picks))
