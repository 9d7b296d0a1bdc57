"""Why a front is empty: which constraint ruled out how many, and what came nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoprune.ports import TrialRecord
    from autoprune.spec.goals import Constraint


@dataclass(frozen=True)
class NearestMiss:
    """The point closest to meeting a constraint: its name, and by how much it misses, in the measure's unit."""

    name: str
    slack: float


@dataclass(frozen=True)
class EmptyFront:
    """`ruled_out[text]` = points that missed this constraint (several may miss one point), of `judged[text]` known;
    `nearest[text]` = the smallest miss of it; `closest` = the point whose worst relative miss is smallest."""

    judged: Mapping[str, int]
    ruled_out: Mapping[str, int]
    nearest: Mapping[str, NearestMiss]
    closest: str | None
    complete: int
    failed: int

    @property
    def text(self) -> str:
        if not self.judged:
            return f"no policy was measured: {self.complete} evaluations complete, {self.failed} failed"
        lines = ["no policy met every constraint with a margin of one standard error:"]
        for text, count in sorted(self.ruled_out.items(), key=lambda item: -item[1]):
            near = self.nearest[text]
            how = "just met" if near.slack <= 0 else f"short by {near.slack:.4g}"
            lines.append(f"  {text}: missed by {count} of {self.judged[text]}; nearest {near.name}, {how}")
        if self.closest is not None:
            lines.append(f"  nearest to meeting all: {self.closest}")
        return "\n".join(lines)


def explain(
    records: Sequence[TrialRecord], constraints: Sequence[Constraint], baseline: Mapping[str, float]
) -> EmptyFront:
    """Judge every settled point by the slacks it has (those ruled out by known costs have only these)."""
    points = [r for r in records if r.origin != "baseline" and not r.cached]
    judged: dict[str, int] = {}
    ruled_out: dict[str, int] = {}
    nearest: dict[str, NearestMiss] = {}
    texts = dict.fromkeys([c.text for c in constraints] + [text for r in points for text in r.constraints])
    for text in texts:
        known = [(r.constraints[text], r.name) for r in points if text in r.constraints]
        if known:
            judged[text] = len(known)
            ruled_out[text] = sum(slack > 0 for slack, _ in known)
            slack, name = min(known)
            nearest[text] = NearestMiss(name, slack)
    units = {c.text: max(abs(c.bound(baseline.get(c.label))), 1e-12) for c in constraints}
    complete = [r for r in points if r.state == "complete" and r.constraints]
    closest = min(complete, key=lambda r: _worst(r.constraints, units), default=None)
    return EmptyFront(
        judged=judged,
        ruled_out=ruled_out,
        nearest=nearest,
        closest=None if closest is None else closest.name,
        complete=sum(r.state == "complete" for r in points),
        failed=sum(r.state == "failed" for r in points),
    )


def _worst(slacks: Mapping[str, float], units: Mapping[str, float]) -> float:
    """The largest miss, each relative to its bound so that different units compare."""
    return max(slack / units.get(text, 1.0) for text, slack in slacks.items())
