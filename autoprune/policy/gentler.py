"""The counts of a sample that a guard's rule has fired for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from autoprune.policy.budget import Counting, Infeasible, Step
from autoprune.policy.resolved import Keep

GRID = 1000  # the factor is a multiple of 1 / GRID
ALL = Fraction(1)


def gentler(own: Counting, budget: Fraction | None) -> Counting:
    """The counts from where `own` stands: all that is there (None), or at the budget.

    At a budget every count is multiplied by the same factor, the largest of a grid with which the sample stays at or
    below the budget, what earlier stages spent included; then the last stage takes up the rest, unless it drops all. A
    sample that is at the budget or above stays as it is: a guard never prunes more.
    """
    if budget is None:
        return _with(own, [Keep("of_current", ALL) for _ in own.steps[own.number :]])
    try:
        counts = to_come(own)
    except Infeasible:  # a budget of its own that so few tokens cannot meet
        counts = [min(own.current, 1) for _ in own.steps[own.number :]]
    if _spent(own, counts) >= budget:
        return own

    def made(factor: int) -> list[Keep]:
        return [Keep("tokens", Fraction(min(own.n, count * factor // GRID))) for count in counts]

    def fits(factor: int) -> bool:
        return _spent(own, to_come(_with(own, made(factor)))) <= budget

    low, high = GRID, GRID * max(own.n, 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    keeps = made(low)
    if not counts or counts[-1] == 0:
        return _with(own, keeps)
    last = _with(own, [*keeps[:-1], Keep("to_budget", budget)])
    try:
        return last if to_come(last)[-1] >= counts[-1] else _with(own, keeps)
    except Infeasible:
        return _with(own, keeps)


def _with(own: Counting, keeps: Sequence[Keep]) -> Counting:
    """The same sample at the same place, with other keeps for the stages to come."""
    later: list[Step] = [
        (layer, replace(keep, parks=old.parks, restores=old.restores))
        for (layer, old), keep in zip(own.steps[own.number :], keeps, strict=True)
    ]
    made = copy.copy(own)
    made.steps = [*own.steps[: own.number], *later]
    return made


def to_come(own: Counting) -> list[int]:
    """The counts of the stages to come; `own` stays where it stands. Raises `Infeasible`."""
    ahead = copy.copy(own)
    return [ahead.next() for _ in own.steps[own.number :]]


def _spent(own: Counting, counts: Sequence[int]) -> Fraction:
    """The sample's budget with these counts for the stages to come."""
    total, current, reached = own.spent, own.current, own.reached
    for (layer, _), count in zip(own.steps[own.number :], counts, strict=True):
        total, current, reached = total + current * (layer - reached), count, layer
    return Fraction(total + current * (own.depth - reached), own.depth * own.n) if own.n else ALL
