"""Do the best policies sit at the end of a parameter's range, so that better ones may lie beyond it?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from autoprune.errors import BadInput
from autoprune.policy.budget import Infeasible
from autoprune.search import pareto
from autoprune.search.explanations.evidence import Evidence, Explanation, by_arm

if TYPE_CHECKING:
    from autoprune.policy.parameters import Parameter
    from autoprune.ports import TrialRecord
    from autoprune.search.plan import Proposals

End = Literal["lower", "upper"]
SHARE = 0.5  # of the looked-at policies that must sit at an end


def explain(evidence: Evidence) -> Explanation:
    """See `_explain`; of each arm by itself."""
    return by_arm(evidence, _explain)


def _explain(evidence: Evidence) -> Explanation:
    """Per parameter with at least half of the front's members (and of the best feasible by each objective) at an end
    that can be widened: which `end`, its `value` as a space writes it, and `hit` `of` how many policies."""
    points = _looked_at(evidence)
    hits: dict[str, Any] = {}
    lines = []
    for parameter in evidence.plan.proposals.parameters:
        for end, value in _ends(parameter):
            hit = [p for p in points if _sits(parameter, end, p) and _tells(evidence.plan.proposals, parameter, p)]
            if len(hit) < 2 or len(hit) < SHARE * len(points):
                continue
            hits[parameter.name] = {"end": end, "value": value, "hit": len(hit), "of": len(points)}
            lines.append(
                f"edge hit: {parameter.name} is at its {end} end {value} in {len(hit)} of {len(points)} of the best "
                f"policies: widen `{parameter.name}` {'below' if end == 'lower' else 'above'} {value}"
            )
    return Explanation(hits, tuple(lines))


def _looked_at(evidence: Evidence) -> list[TrialRecord]:
    """The front's members and the best by each objective that the space has made (others have no parameters)."""
    feasible = [r for r in evidence.complete if pareto.feasible(r)]
    best = [min(feasible, key=lambda r: pareto.signed(r.values, [o])) for o in evidence.plan.objectives if feasible]
    return [r for r in {r.number: r for r in [*evidence.members, *best]}.values() if r.params]


def _ends(parameter: Parameter) -> Iterable[tuple[End, str]]:
    low, high = parameter.edges
    if low is not None:
        yield "lower", low
    if high is not None:
        yield "upper", high


def _sits(parameter: Parameter, end: End, record: TrialRecord) -> bool:
    """Within the parameter's `near` (a share of its range, on a log scale where it has one) of that end."""
    value, low, high = record.params.get(parameter.name), parameter.low, parameter.high
    if value is None or low is None or high is None or high <= low:
        return False
    place = parameter.place(float(value))
    return place <= parameter.near if end == "lower" else place >= 1 - parameter.near


def _tells(proposals: Proposals, parameter: Parameter, record: TrialRecord) -> bool:
    """Whether the parameter has an effect there: those of an option that was not chosen have none."""
    try:
        moved = proposals.candidate({**record.params, parameter.name: parameter.middle})
    except (Infeasible, BadInput):
        return True
    return moved.digest != record.digest
