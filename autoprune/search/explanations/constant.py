"""Does an objective tell policies apart at all?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.search.explanations.evidence import Evidence, Explanation

if TYPE_CHECKING:
    from autoprune.ports import TrialRecord
    from autoprune.spec.goals import Objective

ENOUGH = 8  # policies that must agree before a measure is called constant


def constants(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> dict[str, float]:
    """The objectives that have one value for every measured policy, with it; none before `ENOUGH` different policies
    (references included, the baseline not) are measured."""
    measured = {r.digest: r.values for r in records if r.origin != "baseline" and r.state == "complete"}
    if len(measured) < ENOUGH:
        return {}
    values = {o.label: {found[o.label] for found in measured.values()} for o in objectives}
    return {label: next(iter(seen)) for label, seen in values.items() if len(seen) == 1}


def line(label: str, value: float, count: int) -> str:
    return (
        f"{label} is {value:.4g} for all {count} measured policies: as an objective it tells none of them apart "
        f"(choose a finer measure, or harder records)"
    )


def explain(evidence: Evidence) -> Explanation:
    """Each constant objective with its value."""
    found = constants(evidence.records, evidence.plan.objectives)
    count = len({r.digest for r in evidence.records if r.origin != "baseline" and r.state == "complete"})
    return Explanation(found, tuple(line(label, value, count) for label, value in found.items()))
