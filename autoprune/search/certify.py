"""What the holdout proves about the finalists: one-sided tests over images, in a fixed sequence.

For `M >= c * baseline + s` the test is one-sided on the per-image sums of M - c * baseline - s, paired by record:
*certified* when its lower bound is not below 0, *violated* when its upper bound is below 0, else *undecided*. Tests are
made in an order fixed before the holdout is looked at (policies dearest first, constraints as the spec has them), each
at the full confidence; after the first that does not certify no later one can.

`certifiable` is the tightest number known of each, all of them true at once at the stated confidence: the declared
bound of what is certified; the own bound, at full confidence, of the test that ended the sequence; and where every test
certifies, each one's own bound with the risk shared out evenly. docs/certification.md says why this is valid (Maurer,
Hothorn & Lehmacher 1995; Hsu & Berger 1999).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from autoprune.measures import registry as measures
from autoprune.search.bound_test import BoundTest
from autoprune.search.settle import Unusable
from autoprune.search.statistics import Clusters, is_binary, lower_bound, student, upper_bound

if TYPE_CHECKING:
    from autoprune.ports import Measurement, TrialRecord
    from autoprune.spec.goals import Constraint

State = Literal["certified", "met", "undecided", "violated"]
SEQUENCE_BROKEN = "a test before it in the fixed sequence was not passed"


@dataclass(frozen=True)
class Interval:
    """A mean with a two-sided confidence interval; unknown limits (fewer than two images) are None."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Verdict:
    """One constraint on one policy. `lower` and `upper` are one-sided bounds of sign * (M - bound), in the measure's
    unit. `certifiable` is a number that could stand in the constraint: the factor of the baseline, or the shift where
    the bound has one (None = nothing is known). `tested`: over images. Other numbers are exact (a cost) or stand for
    themselves (a timing, which at best is *met*): no part of the sequence, they neither end it nor wait for it."""

    text: str
    state: State
    lower: float
    upper: float
    certifiable: float | None
    reason: str = ""
    tested: bool = True


def interval(measurement: Measurement, label: str, confidence: float) -> Interval:
    """The measure's mean and its two-sided interval over images; exact values have no width."""
    value, samples = measurement.values[label], measurement.samples.get(label)
    if samples is None:
        return Interval(value, value, value)
    data = Clusters.of(samples, measurement.images)
    if len(data) < 2:
        return Interval(value, None, None)
    one_sided = (1 + confidence) / 2
    if is_binary(samples):
        low, high = lower_bound(data, one_sided, 0.0), upper_bound(data, one_sided, 1.0)
        return Interval(value, max(0.0, low), min(1.0, high))
    half = student(one_sided, len(data)) * data.error if data.error > 0 else 0.0
    return Interval(value, value - half, value + half)


def judge(constraint: Constraint, policy: Measurement, baseline: Measurement, confidence: float) -> Verdict:
    """The verdict on one constraint and the tightest number that could be certified, as if nothing else were tested."""
    test = BoundTest.of(constraint, policy, baseline, confidence)
    if test is None:
        return _untested(constraint, policy, baseline)
    return replace(_verdict(test), certifiable=_number(test))


def _untested(constraint: Constraint, policy: Measurement, baseline: Measurement) -> Verdict:
    gap = -constraint.slack(policy.values[constraint.label], baseline.values[constraint.label])
    info = measures.find(constraint.measure.name)
    timed = info is not None and info.timed
    state: State = "violated" if gap < 0 else "met" if timed else "certified"
    number = None if timed else _exact_number(constraint, policy, baseline)
    return Verdict(constraint.text, state, gap, gap, number, tested=False)


def _verdict(test: BoundTest) -> Verdict:
    goal = test.constraint
    if test.images < 2:
        few = f"the holdout has {test.images} image: an interval needs at least 2"
        return Verdict(goal.text, "undecided", -math.inf, math.inf, None, few)
    lower, upper = test.lower(goal.scale, goal.shift), test.upper(goal.scale, goal.shift)
    state: State = "certified" if lower >= 0 else "violated" if upper < 0 else "undecided"
    return Verdict(goal.text, state, lower, upper, None)


def _number(test: BoundTest) -> float | None:
    return test.certifiable() if test.images >= 2 else None


def _exact_number(constraint: Constraint, policy: Measurement, baseline: Measurement) -> float | None:
    value, base = policy.values[constraint.label], baseline.values[constraint.label]
    if constraint.by_factor:
        return value / base if base > 0 else None
    return value - constraint.scale * base


def sequence(records: Sequence[TrialRecord], costs: Sequence[str]) -> list[TrialRecord]:
    """The order of testing: dearest first by the first cost known from the search, ties by the next, then by digest.

    Uses search-split values only, so it is fixed before the holdout is looked at.
    """
    return sorted(records, key=lambda r: (*(-r.values[c] for c in costs), r.digest))


def certify(
    constraints: Sequence[Constraint],
    ordered: Sequence[Measurement | Unusable],
    baseline: Measurement,
    confidence: float,
) -> list[dict[str, Verdict]]:
    """Verdicts by constraint text for policies in the order of testing. One that could not be measured gets none, and
    ends the sequence like a test that does not certify."""
    passed: list[tuple[dict[str, Verdict], BoundTest]] | None = []  # None: the sequence has ended
    results: list[dict[str, Verdict]] = []
    for measurement in ordered:
        verdicts: dict[str, Verdict] = {}
        results.append(verdicts)
        if isinstance(measurement, Unusable):
            passed = None
            continue
        for constraint in constraints:
            test = BoundTest.of(constraint, measurement, baseline, confidence)
            if test is None:
                verdicts[constraint.text] = _untested(constraint, measurement, baseline)
                continue
            verdict = _verdict(test)
            if passed is None:
                verdict = _after_the_end(verdict)
            elif verdict.state == "certified":
                passed.append((verdicts, test))
                verdict = replace(verdict, certifiable=constraint.number)
            else:
                passed, verdict = None, replace(verdict, certifiable=_number(test))
            verdicts[constraint.text] = verdict
    for verdicts, test in passed or ():
        verdicts[test.constraint.text] = _sharper(verdicts[test.constraint.text], test, len(passed or ()))
    return results


def _after_the_end(verdict: Verdict) -> Verdict:
    return replace(verdict, state="undecided", reason=SEQUENCE_BROKEN) if verdict.state == "certified" else verdict


def _sharper(verdict: Verdict, test: BoundTest, among: int) -> Verdict:
    """With its own number, where everything is certified and the risk is shared by so many tests."""
    goal, number = test.constraint, test.at(1 - (1 - test.confidence) / among).certifiable()
    tighter = number is not None and test.sign * number > test.sign * goal.number
    return replace(verdict, certifiable=number) if tighter else verdict


def standing(verdicts: Mapping[str, Verdict]) -> State:
    """A policy's overall state: certified only if every constraint is, or met (also when there is none)."""
    states = {v.state for v in verdicts.values()}
    if "violated" in states:
        return "violated"
    return "undecided" if "undecided" in states else "certified"


@dataclass(frozen=True)
class Finalist:
    """A point of the search front with what the holdout says about it."""

    record: TrialRecord
    holdout: Measurement
    verdicts: Mapping[str, Verdict]

    @property
    def rank(self) -> int:
        """0 certified, 1 undecided, 2 violated."""
        return ("certified", "undecided", "violated").index(standing(self.verdicts))
