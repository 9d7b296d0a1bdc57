"""What is each stage of a policy good for? The policy measured without it, on the search split.

These evaluations are no trials and never on the front: the store remembers them, the sampler does not hear of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.search import settle
from autoprune.search.explanations.evidence import Explanation

if TYPE_CHECKING:
    from autoprune.ports import Measurement
    from autoprune.search.holdout import Bench
    from autoprune.search.plan import StudyPlan

MOST = 6  # evaluations; of longer policies the stages that save most are looked at


@dataclass(frozen=True)
class Without:
    """A policy without the stage of this number (from 1) at this site. `canonical` is None where nothing is left of the
    policy: that is the unpruned model. `saves` orders stages: by how much the budget rises without it. `reason`: why
    there is nothing to measure."""

    stage: int
    at: str
    canonical: str | None = None
    saves: float = 0.0
    reason: str = ""


def explain(
    plan: StudyPlan, bench: Bench, name: str, whole: Mapping[str, float], without: Sequence[Without]
) -> Explanation:
    """Per stage what every objective and constrained measure is `without` it, the `effect` it has (with minus without),
    and which constraints are then `missed`; or the `reason` why there are no numbers. `whole` are the policy's
    own search-split values."""
    wanted = sorted((w for w in without if not w.reason), key=lambda w: (-w.saves, w.stage))
    chosen = [w for w in without if w.reason or w in wanted[:MOST]]
    baseline = bench.baseline("search")
    todo = list(dict.fromkeys(w.canonical for w in wanted[:MOST] if w.canonical is not None))
    measured = dict(zip(todo, bench.policies(todo, "search", baseline, lambda _: None), strict=True))
    labels = list(dict.fromkeys([o.label for o in plan.objectives] + [c.label for c in plan.constraints]))
    found: list[dict[str, Any]] = []
    lines = []
    for one in chosen:
        where = {"stage": one.stage, "at": one.at}
        result = baseline if one.canonical is None else measured[one.canonical]
        reason = one.reason or (f"not measured: {result.reason}" if isinstance(result, settle.Unusable) else "")
        if reason or isinstance(result, settle.Unusable):
            found.append({**where, "reason": reason})
            lines.append(f"{name}, stage {one.stage} ({one.at}): {reason}")
            continue
        found.append({**where, **_effect(plan, labels, whole, result, baseline)})
        lines.append(_line(name, one, labels, whole, found[-1]))
    return Explanation({"policy": name, "stages": found, "not_measured": len(without) - len(chosen)}, tuple(lines))


def _effect(
    plan: StudyPlan, labels: Sequence[str], whole: Mapping[str, float], result: Measurement, baseline: Measurement
) -> dict[str, Any]:
    slacks = settle.search_slacks(plan.constraints, result, baseline)
    return {
        "without": {label: result.values[label] for label in labels},
        "effect": {label: whole[label] - result.values[label] for label in labels},
        "missed": [text for text, slack in slacks.items() if slack > 0],
    }


def _line(name: str, one: Without, labels: Sequence[str], whole: Mapping[str, float], data: Mapping[str, Any]) -> str:
    moved = ", ".join(f"{label} {whole[label]:.4g} -> {data['without'][label]:.4g}" for label in labels)
    missed = f"; misses {', '.join(data['missed'])}" if data["missed"] else ""
    left = " (nothing is left)" if one.canonical is None else ""
    return f"{name} without stage {one.stage} ({one.at}){left}: {moved}{missed}"
