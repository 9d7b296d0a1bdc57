"""Numbers out of searches: hypervolume over what it cost, what a target takes, where trials go. See `efficiency.py`.

A run is what `efficiency_runs.Workplace.run` leaves; one hypervolume reference point for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from autoprune.search.pareto import Point, hypervolume, non_dominated

Run = Mapping[str, Any]
Curve = list[tuple[float, float]]
ENOUGH = 1e-9
RESAMPLES = 2000


def curve(run: Run, reference: Point, axis: str = "evaluations") -> Curve:
    """(cost so far, feasible hypervolume) after every settled point that cost something or changed it."""
    cost, found = 0.0, [(0.0, 0.0)]
    for point, volume in _volumes(run, reference):
        cost += point[axis]
        if (cost, volume) != found[-1]:
            found.append((cost, volume))
    return found


def at(found: Curve, cost: float) -> float:
    """The hypervolume when so much was spent; one that ended before keeps its last."""
    return max(volume for spent, volume in found if spent <= cost + ENOUGH)


def needed(found: Curve, target: float) -> float:
    """What it cost to reach the target; infinite where it was not."""
    return next((spent for spent, volume in found if volume >= target * (1 - ENOUGH)), math.inf)


def best_known(runs: Sequence[Run], reference: Point) -> float:
    """The hypervolume of everything feasible that any run found."""
    return hypervolume([tuple(p["point"]) for run in runs for p in run["points"] if p["feasible"]], reference)


def held_out_volume(run: Run, reference: Point) -> float:
    """Of the front as the holdout has it, those within the constraint there."""
    return hypervolume([tuple(m["point"]) for m in run["held_out"] if m["feasible"]], reference)


def quartiles(values: Sequence[float]) -> list[float]:
    """Median, lower and upper quartile; each is one of the values or between two, so that infinity may be among
    them."""
    ordered = sorted(values)
    return [_quantile(ordered, part) for part in (0.5, 0.25, 0.75)]


def _quantile(ordered: Sequence[float], part: float) -> float:
    place = part * (len(ordered) - 1)
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low if low == high else low + (place - math.floor(place)) * (high - low)


def interval(
    one: Sequence[Any], other: Sequence[Any], statistic: Callable[[Sequence[Any], Sequence[Any]], float]
) -> list[float]:
    """95 % percentile bootstrap (Efron 1979) of a statistic of two groups of runs, both drawn anew by seed."""
    rng = np.random.default_rng(1)
    found = sorted(
        statistic(
            [one[i] for i in rng.integers(len(one), size=len(one))],
            [other[i] for i in rng.integers(len(other), size=len(other))],
        )
        for _ in range(RESAMPLES)
    )
    return [_quantile(found, 0.025), _quantile(found, 0.975)]


def times_fewer(random: Sequence[Curve], other: Sequence[Curve], evaluations: float) -> float:
    """How many times fewer evaluations than `evaluations` the median run of a strategy needs for the median of what
    random search has reached by then; 0 where it never gets there."""
    target = quartiles([at(found, evaluations) for found in random])[0]
    return evaluations / quartiles([needed(found, target) for found in other])[0]


def phases(runs: Sequence[Run], reference: Point, best: float) -> list[dict[str, Any]]:
    """Of every phase, in order, means over the runs: evaluations, settled points by what became of them, and what it
    added to the hypervolume, in parts of the best known."""
    names = list(dict.fromkeys(p["phase"] for run in runs for p in run["points"]))
    sums = {
        name: dict.fromkeys(("evaluations", "measured", "unreachable", "infeasible", "improved", "gain"), 0.0)
        for name in names
    }
    for run in runs:
        for (_, before), (point, after) in pairwise([(None, 0.0), *_volumes(run, reference)]):
            if point is None:
                raise AssertionError("every volume after the first is some point's")
            found = sums[point["phase"]]
            found["evaluations"] += point["evaluations"]
            measured = point["point"] is not None and point["state"] in ("complete", "screened")
            found["measured"] += measured
            found["unreachable"] += point["state"] == "infeasible"
            found["infeasible"] += measured and not point["feasible"]
            found["improved"] += after > before
            found["gain"] += (after - before) / best
    return [{"phase": name, **{key: value / len(runs) for key, value in found.items()}} for name, found in sums.items()]


def _volumes(run: Run, reference: Point) -> list[tuple[Mapping[str, Any], float]]:
    """Every point with the hypervolume after it."""
    front: list[Point] = []
    volume, found = 0.0, []
    for point in run["points"]:
        if point["feasible"]:
            front.append(tuple(point["point"]))
            front = [front[i] for i in non_dominated(front)]
            volume = hypervolume(front, reference)
        found.append((point, volume))
    return found


def least_loss(run: Run, cost: float) -> float | None:
    """The first objective of the best held-out member whose second is at most `cost`; None where there is none."""
    found = [m["point"][0] for m in run["held_out"] if m["point"][1] <= cost * (1 + ENOUGH)]
    return min(found, default=None)
