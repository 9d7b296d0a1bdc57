"""Non-dominated points and exact hypervolume. Everything here minimises; `signed` turns objectives into that form.

The hypervolume's reference point is fixed by the baseline and the references alone: per objective the worst of them,
moved away by a tenth of their spread (by the larger of 1 and the value's size, times 0.1, where they do not differ).
They are the first points of every study and never change afterwards, so curves of an interrupted and a continued run
are the same curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoprune.ports import TrialRecord
    from autoprune.spec.goals import Objective

Point = tuple[float, ...]


def signed(values: Mapping[str, float], objectives: Sequence[Objective]) -> Point:
    """The objectives' values in minimisation form."""
    return tuple(values[o.label] if o.direction == "minimize" else -values[o.label] for o in objectives)


def dominates(a: Point, b: Point) -> bool:
    """Whether a is nowhere worse than b and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def non_dominated(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other dominates, in order; of equal points only the first.

    In lexicographic order whatever dominates a point comes before it, and something on the front does: O(n log n) and
    n comparisons with the front, the nearest first.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if not any(points[j] == points[i] or dominates(points[j], points[i]) for j in reversed(front)):
            front.append(i)
    return sorted(front)


def feasible(record: TrialRecord) -> bool:
    """Complete, and every constraint met with the search's margin."""
    return record.state == "complete" and all(slack <= 0 for slack in record.constraints.values())


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Exact volume dominated by the points and bounded by the reference, by slicing along the last objective.

    O(n log n) in two dimensions, O(n^2 log n) in three, right (and slow) beyond. Points not better than the
    reference in every objective add nothing.
    """
    inside = [p for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    if len(reference) == 2:
        return _area(inside, reference)
    inside.sort(key=lambda p: p[-1])
    volume = 0.0
    for i, point in enumerate(inside):
        top = inside[i + 1][-1] if i + 1 < len(inside) else reference[-1]
        if top > point[-1]:
            volume += (top - point[-1]) * hypervolume([p[:-1] for p in inside[: i + 1]], reference[:-1])
    return volume


def _area(points: Sequence[Point], reference: Point) -> float:
    area, ceiling = 0.0, reference[1]
    for x, y in sorted(points):
        if y < ceiling:
            area += (reference[0] - x) * (ceiling - y)
            ceiling = y
    return area


def reference_point(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> Point | None:
    """The study's hypervolume reference (see the module); None before the baseline is measured."""
    known = [r for r in records if r.origin in ("baseline", "reference") and r.state == "complete"]
    if not any(r.origin == "baseline" for r in known):
        return None
    columns = zip(*(signed(r.values, objectives) for r in known), strict=True)
    return tuple(_beyond(column) for column in columns)


def _beyond(column: Sequence[float]) -> float:
    worst, spread = max(column), max(column) - min(column)
    return worst + 0.1 * (spread if spread > 0 else max(1.0, abs(worst)))


def search_front(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[TrialRecord]:
    """The non-dominated among the feasible points (references included, baseline not), by number."""
    points = [r for r in records if r.origin != "baseline" and feasible(r)]
    return [points[i] for i in non_dominated([signed(r.values, objectives) for r in points])]


def hypervolume_curve(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[float]:
    """Hypervolume of the feasible points after each completed, not cached one (baseline excluded). Cached ones (another
    study paid for them) are part of it but no step of their own.

    A function of the records alone: whoever has them (the store, MLflow) can rebuild it.
    """
    reference = reference_point(records, objectives)
    if reference is None:
        return []
    front: list[Point] = []
    curve: list[float] = []
    for record in records:
        if record.origin == "baseline" or record.state != "complete":
            continue
        if feasible(record):
            front.append(signed(record.values, objectives))
            front = [front[i] for i in non_dominated(front)]
        if not record.cached:
            curve.append(hypervolume(front, reference))
    return curve
