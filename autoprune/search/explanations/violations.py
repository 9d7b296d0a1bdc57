"""Which constraint ruled out how many points, and what came nearest to meeting it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.search import pareto
from autoprune.search.explanations.evidence import Evidence, Explanation

if TYPE_CHECKING:
    from autoprune.ports import TrialRecord


def explain(evidence: Evidence) -> Explanation:
    """Per constraint, over every settled point whose slack is known (those ruled out by known costs have only these; a
    budget that cannot be reached has one only where it is missed, and is judged of all):
    `missed` of `judged`, their `rate`, and the `nearest` miss with what it is short by, in the measure's unit. Where
    nothing met every constraint, `closest` is the point whose worst miss, relative to the bounds, is smallest."""
    constraints = evidence.plan.constraints
    points = [r for r in evidence.points if r.state in ("complete", "infeasible")]
    texts = dict.fromkeys([c.text for c in constraints] + [text for r in points for text in r.constraints])
    found = {text: _judged(points, text, declared=any(c.text == text for c in constraints)) for text in texts}
    lines = [_line(text, data) for text, data in sorted(found.items(), key=lambda i: -i[1]["missed"]) if data["missed"]]
    if any(pareto.feasible(r) for r in points):
        return Explanation({"constraints": found, "closest": None}, tuple(lines))
    if not any(data["judged"] for data in found.values()):
        failed = sum(r.state == "failed" for r in evidence.points)
        return Explanation({"constraints": found, "closest": None}, (f"no policy was measured: {failed} failed",))
    closest = _closest(evidence)
    lines = ["no policy met every constraint with a margin of one standard error:", *(f"  {line}" for line in lines)]
    lines += [] if closest is None else [f"  nearest to meeting all: {closest}"]
    return Explanation({"constraints": found, "closest": closest}, tuple(lines))


def _judged(points: Sequence[TrialRecord], text: str, declared: bool) -> dict[str, Any]:
    known = [r for r in points if text in r.constraints]
    missed = sorted((r for r in known if r.constraints[text] > 0), key=lambda r: (r.constraints[text], r.number))
    judged = len(known) if declared else len(points)
    nearest = (
        {"policy": missed[0].name if missed[0].digest else None, "short": missed[0].constraints[text]}
        if missed
        else None
    )
    return {
        "judged": judged,
        "missed": len(missed),
        "rate": len(missed) / judged if judged else None,
        "nearest": nearest,
    }


def _line(text: str, data: Mapping[str, Any]) -> str:
    near, share = data["nearest"], round(100 * data["rate"])
    which = f" {near['policy']}," if near["policy"] else ""
    return (
        f"{text}: missed by {data['missed']} of {data['judged']} ({share} %); "
        f"nearest miss{which} short by {near['short']:.4g}"
    )


def _closest(evidence: Evidence) -> str | None:
    units = {c.text: max(abs(c.bound(evidence.baseline.values.get(c.label))), 1e-12) for c in evidence.plan.constraints}
    judged = [r for r in evidence.complete if r.constraints]
    worst = {r.name: max(slack / units.get(text, 1.0) for text, slack in r.constraints.items()) for r in judged}
    return min(worst, key=lambda name: worst[name], default=None)
