"""What a person should know beside the front's numbers, in lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.search.certify import SEQUENCE_BROKEN, Finalist

if TYPE_CHECKING:
    from autoprune.spec.goals import Constraint


def remarks(constraints: Sequence[Constraint], finalists: Sequence[Finalist], members: int) -> list[str]:
    """Why policies are undecided, what could have been certified, and how many the holdout dropped. Finalists stand in
    the order of testing."""
    lines, ended = _reasons(finalists), _ended(constraints, finalists)
    if finalists and all(f.rank > 0 for f in finalists):
        lines.append("no policy is certified" + (":" if ended else ""))
    lines += ended
    dropped = len(finalists) - members
    if dropped:
        lines.append(f"{dropped} of {len(finalists)} finalists are dominated on the holdout and left out")
    return lines


def looks(times: int) -> list[str]:
    """From the second look at a holdout on: searching on until it certifies something is optional stopping."""
    if times < 2:
        return []
    return [
        f"this holdout was looked at {times} times, over all studies: each look at other policies has a risk of its "
        "own of a false certificate; only records that nobody has looked at start anew"
    ]


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


def _ended(constraints: Sequence[Constraint], finalists: Sequence[Finalist]) -> list[str]:
    """What the test that ended the sequence would have certified: the one number of a failed test that holds beside
    everything that is certified. A best of several would be none, being chosen by the holdout."""
    for finalist in finalists:
        for constraint in constraints:
            verdict = finalist.verdicts[constraint.text]
            if verdict.reason == SEQUENCE_BROKEN:
                return []
            if verdict.tested and verdict.state != "certified":
                number, name = verdict.certifiable, finalist.record.name
                if number is None:
                    return [f"{constraint.text}: no bound could be certified for {name} on this holdout"]
                return [f"{constraint.text}: {name} could be certified for {bound_text(constraint, number)}"]
    return []


def verdict_text(constraint: Constraint, state: str, number: float | None) -> str:
    """A verdict with the number that holds beside it: 'certified: exact_match >= 0.95 * baseline (even exact_match >=
    0.958 * baseline)'; what is not certified has a number where it ended the sequence."""
    if state == "met":
        return f"met (one measurement): {constraint.text}"
    if number is None or (state == "certified" and number == constraint.number):
        return f"{state}: {constraint.text}"
    known = "even" if state == "certified" else "could be certified:"
    return f"{state}: {constraint.text} ({known} {bound_text(constraint, number)})"


def bound_text(constraint: Constraint, number: float) -> str:
    """The constraint with this number, rounded to the safe side at four digits: 'exact_match >= 0.958 * baseline'."""
    digits = 3 - math.floor(math.log10(abs(number))) if number else 3
    unit = 10.0**-digits
    rounded = (math.floor if constraint.op == ">=" else math.ceil)(number / unit + 0.0) * unit
    shown = f"{rounded:.{max(0, digits)}f}"
    shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
    if constraint.by_factor:
        return f"{constraint.label} {constraint.op} {shown} * baseline"
    if not constraint.relative:
        return f"{constraint.label} {constraint.op} {shown}"
    base = "baseline" if constraint.scale == 1.0 else f"{constraint.scale:g} * baseline"
    sign = "-" if number < 0 else "+"
    return f"{constraint.label} {constraint.op} {base} {sign} {shown.lstrip('-')}"
