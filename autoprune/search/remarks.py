"""What a person should know beside the front's numbers, in lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.search.certify import SEQUENCE_BROKEN, Finalist

if TYPE_CHECKING:
    from autoprune.spec.goals import Constraint


def remarks(constraints: Sequence[Constraint], finalists: Sequence[Finalist], members: int) -> list[str]:
    """Why policies are undecided, what could have been certified, and how many the holdout dropped."""
    lines = _reasons(finalists)
    if finalists and all(f.rank > 0 for f in finalists):
        lines += ["no policy is certified:", *(f"  {line}" for c in constraints for line in _best(c, finalists))]
    dropped = len(finalists) - members
    if dropped:
        lines.append(f"{dropped} of {len(finalists)} finalists are dominated on the holdout and left out")
    return lines


def _reasons(finalists: Sequence[Finalist]) -> list[str]:
    names: dict[str, list[str]] = {}
    for finalist in finalists:
        for reason in dict.fromkeys(v.reason for v in finalist.verdicts.values() if v.reason):
            names.setdefault(reason, []).append(finalist.record.name)
    return [
        f"{len(who)} {'policy stays' if len(who) == 1 else 'policies stay'} undecided: {reason}"
        if reason == SEQUENCE_BROKEN
        else f"{', '.join(who)}: {reason}"
        for reason, who in names.items()
    ]


def _best(constraint: Constraint, finalists: Sequence[Finalist]) -> list[str]:
    sign = 1.0 if constraint.op == ">=" else -1.0
    known = [
        (sign * number, f.record.name)
        for f in finalists
        if (number := f.verdicts[constraint.text].certifiable) is not None
    ]
    if not known:
        return [f"{constraint.text}: no bound could be certified on this holdout"]
    best, name = max(known)
    return [f"{constraint.text}: {name} could be certified for {bound_text(constraint, sign * best)}"]


def verdict_text(constraint: Constraint, state: str, number: float | None) -> str:
    """A verdict with the tightest bound that the holdout proves: 'certified: exact_match >= 0.958 * baseline'."""
    if number is None:
        return f"{state}: {constraint.text}"
    proven = bound_text(constraint, number)
    return f"{state}: {proven}" if state == "certified" else f"{state}: {constraint.text} (shown: {proven})"


def bound_text(constraint: Constraint, number: float) -> str:
    """The constraint with this number, rounded to the safe side at four digits: 'exact_match >= 0.958 * baseline'."""
    digits = 3 - math.floor(math.log10(abs(number))) if number else 3
    unit = 10.0**-digits
    rounded = (math.floor if constraint.op == ">=" else math.ceil)(number / unit + 0.0) * unit
    shown = f"{rounded:.{max(0, digits)}f}"
    shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
    if constraint.relative and constraint.shift == 0.0:
        return f"{constraint.label} {constraint.op} {shown} * baseline"
    if not constraint.relative:
        return f"{constraint.label} {constraint.op} {shown}"
    base = "baseline" if constraint.scale == 1.0 else f"{constraint.scale:g} * baseline"
    sign = "-" if number < 0 else "+"
    return f"{constraint.label} {constraint.op} {base} {sign} {shown.lstrip('-')}"
