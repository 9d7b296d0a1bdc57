"""Which stage of a certified policy does what: the policies to measure, made from its document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from autoprune.api.proposals import PARTS, candidate
from autoprune.api.study import Prepared
from autoprune.errors import BadInput
from autoprune.policy import canonical
from autoprune.policy.budget import Infeasible, budget, lengths
from autoprune.policy.document import Policy, Stage
from autoprune.policy.sites import layer_text
from autoprune.policy.without import without_stages
from autoprune.pruning.plan import make_plan
from autoprune.search.explanations import stages
from autoprune.search.explanations.stages import Without

if TYPE_CHECKING:
    from autoprune.policy.front import Front, Member
    from autoprune.policy.model import AnyStage
    from autoprune.policy.resolved import ResolvedPolicy
    from autoprune.search.holdout import Bench
    from autoprune.search.plan import StudyPlan

NOMINAL = 1000  # tokens of an image where images differ: only ranks stages


def explain_stages(study: Prepared, plan: StudyPlan, bench: Bench, front: Front) -> Front:
    """The front with what each stage of one member is good for: of the selected, else the first certified, else the
    first one (the dearest, so the likeliest to be within the constraints). Without members nothing is measured."""
    member = _member(front)
    if member is None or member.policy is None:
        return front
    found = stages.explain(plan, bench, member.name, member.search, list(_without(study, member)))
    return replace(
        front,
        explanation=(*front.explanation, *found.lines),
        explanations={**front.explanations, "stages": dict(found.data)},
    )


def _member(front: Front) -> Member | None:
    certified = (m for m in front.members if m.certified)
    return front.selected or next(certified, None) or next(iter(front.members), None)


def _without(study: Prepared, member: Member) -> Iterator[Without]:
    """Each stage's absence, or why there is nothing to measure."""
    policy = Policy.parse(member.policy or {}, PARTS)
    geometry, tokens = study.geometry, study.tokens
    whole = canonical.resolve(policy, geometry, PARTS, tokens)
    cost = _budget(study, whole)
    for i, rest in enumerate(without_stages(policy, geometry.depth, tokens)):
        at = _site(policy.stages[i])
        try:
            made = candidate(rest, geometry, tokens)
            resolved = canonical.from_json(made.canonical)
            make_plan(resolved, geometry)
        except (BadInput, Infeasible) as error:
            yield Without(i + 1, at, reason=f"without it there is no valid policy ({error})")
            continue
        if made.digest == canonical.digest(whole):
            yield Without(i + 1, at, reason="it has no effect in this policy")
        else:
            text = made.canonical if resolved.stages else None
            yield Without(i + 1, at, text, _budget(study, resolved) - cost)


def _budget(study: Prepared, resolved: ResolvedPolicy) -> float:
    n = study.tokens or study.geometry.tokens_per_image or NOMINAL
    return budget([lengths(resolved, n)], [n], resolved.depth)


def _site(stage: AnyStage) -> str:
    if isinstance(stage, Stage):
        return stage.at.text if stage.until is None else f"{stage.at.text} to {layer_text(stage.until)}"
    return f"llm:{layer_text(stage.along[0])} to {layer_text(stage.along[1])}"
