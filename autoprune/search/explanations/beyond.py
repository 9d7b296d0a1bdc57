"""Which constraints can no policy meet, now that the unpruned model is measured? (What is known without a run is
refused before, as bad input: `measures/least.py`.)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.measures.registry import find
from autoprune.search.explanations.evidence import Evidence, Explanation

if TYPE_CHECKING:
    from autoprune.spec.goals import Constraint


def beyond(constraints: Sequence[Constraint], baseline: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Constraints whose `bound` lies beyond the `limit` of what the measure can be: 1.2 for an `exact_match`."""
    found: dict[str, dict[str, Any]] = {}
    for constraint in constraints:
        info = find(constraint.measure.name)
        if info is None or info.bounded is None:
            continue
        bound, (low, high) = constraint.bound(baseline.get(constraint.label)), info.bounded
        if bound > high if constraint.op == ">=" else bound < low:
            found[constraint.text] = {"bound": bound, "limit": high if constraint.op == ">=" else low}
    return found


def line(text: str, data: Mapping[str, Any]) -> str:
    return f"no policy can meet '{text}': that is {data['bound']:.4g}, and the measure ends at {data['limit']:g}"


def explain(evidence: Evidence) -> Explanation:
    found = beyond(evidence.plan.constraints, evidence.baseline.values)
    return Explanation(found, tuple(line(text, data) for text, data in found.items()))
