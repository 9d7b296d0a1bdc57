"""What an evaluation's outcome means: usable numbers, or a named failure; and how far it is from each constraint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from autoprune.ports import Failed, Lost, Measurement
from autoprune.search.ledger import LOST
from autoprune.search.statistics import Array, Clusters

if TYPE_CHECKING:
    from autoprune.ports import Outcome, TrialRecord, TrialState
    from autoprune.spec.goals import Constraint


@dataclass(frozen=True)
class Unusable:
    """Why an outcome gives no numbers: 'kind: message'."""

    reason: str


@dataclass(frozen=True)
class Fate:
    """What became of a point: `values` by label and `slacks` by constraint text as far as they are known, `reason`
    where it was not simply measured; `cached`: this study paid nothing for it; `seconds` of the evaluation; `lineage`
    of its outcome; `fresh`: the records it was run on (None: all)."""

    state: TrialState
    values: Mapping[str, float] = field(default_factory=dict)
    slacks: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    cached: bool = False
    seconds: float = 0.0
    lineage: str = ""
    fresh: int | None = None

    @classmethod
    def again(cls, record: TrialRecord) -> Fate:
        """That of a point with the effect of one settled before."""
        return cls(record.state, record.values, record.constraints, f"same as {record.name}", cached=True)


def usable(outcome: Outcome, labels: Sequence[str], baseline: Measurement | None) -> Measurement | Unusable:
    """The measurement, if every declared measure is there, finite, and paired with the baseline's records."""
    if isinstance(outcome, Lost):
        return Unusable(f"{LOST}: {outcome.message}")
    if isinstance(outcome, Failed):
        return Unusable(f"{outcome.kind}: {outcome.message}")
    measurement = outcome.measurement
    missing = [label for label in labels if label not in measurement.values]
    if missing:
        return Unusable(f"error: the evaluator returned no {', '.join(missing)}")
    broken = [label for label in labels if not _is_finite(measurement, label)]
    if broken:
        return Unusable(f"non_finite: {', '.join(broken)} is NaN or infinite")
    ragged = [label for label, s in measurement.samples.items() if len(s) != len(measurement.images)]
    if ragged:
        return Unusable(f"error: {', '.join(ragged)} has not one number per record")
    if baseline is not None and (baseline.images != measurement.images or baseline.records != measurement.records):
        return Unusable("error: measured on other records than the baseline")
    return measurement


def _is_finite(measurement: Measurement, label: str) -> bool:
    return math.isfinite(measurement.values[label]) and all(map(math.isfinite, measurement.samples.get(label, ())))


def margins(constraint: Constraint, policy: Measurement, baseline: Measurement) -> Array | None:
    """Per record, how far the policy is on the right side: sign * (M - scale * baseline - shift); None where the
    measure has no per-record numbers."""
    own, base = policy.samples.get(constraint.label), baseline.samples.get(constraint.label)
    if own is None or base is None:
        return None
    sign = 1.0 if constraint.op == ">=" else -1.0
    result: Array = sign * (np.asarray(own) - constraint.scale * np.asarray(base) - constraint.shift)
    return result


def search_slack(constraint: Constraint, policy: Measurement, baseline: Measurement) -> float:
    """The slack during the search: the point estimate plus one cluster-robust standard error of the paired difference
    (a margin now saves a disappointment on the holdout). <= 0 is met."""
    label = constraint.label
    slack = constraint.slack(policy.values[label], baseline.values[label])
    paired = margins(constraint, policy, baseline)
    if paired is None:
        return slack
    error = Clusters.of(paired, policy.images).error
    return slack + error if math.isfinite(error) else slack


def search_slacks(constraints: Sequence[Constraint], policy: Measurement, baseline: Measurement) -> dict[str, float]:
    """Slack by constraint text."""
    return {c.text: search_slack(c, policy, baseline) for c in constraints}


def known_slacks(
    constraints: Sequence[Constraint], costs: Mapping[str, float], baseline: Measurement
) -> dict[str, float]:
    """Slacks of those constraints whose measure is known without running (no margin: nothing is estimated)."""
    return {c.text: c.slack(costs[c.label], baseline.values[c.label]) for c in constraints if c.label in costs}
