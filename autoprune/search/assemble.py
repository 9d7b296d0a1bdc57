"""The front document's values from the search's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.policy.front import Estimate, Front, Member
from autoprune.search import pareto
from autoprune.search.agreement import agreement
from autoprune.search.certify import interval

if TYPE_CHECKING:
    from autoprune.ports import Measurement, TrialRecord
    from autoprune.search.certify import Finalist
    from autoprune.search.plan import StudyPlan


def assemble(
    plan: StudyPlan,
    records: Sequence[TrialRecord],
    baseline: Measurement | None,
    members: Sequence[Finalist],
    selected: Finalist | None,
    notes: Sequence[str],
    explanations: Mapping[str, Any],
    finalists: Sequence[Finalist],
) -> Front:
    """The front: members dearest first, with their intervals, states and what could be certified. All `finalists`, also
    those that the holdout drops, say how far measures agree with held-out accuracy."""
    points = [r for r in records if r.origin != "baseline" and not r.cached]
    return Front(
        study=plan.study_id,
        baseline={} if baseline is None else estimates(baseline, plan),
        members=tuple(_member(m, m is selected, plan) for m in members),
        trials={
            "complete": sum(r.state == "complete" for r in points),
            "failed": sum(r.state == "failed" for r in points),
            "running": 0,
        },
        explanation=tuple(line for note in notes for line in note.splitlines()),
        explanations=explanations,
        hypervolume=tuple(pareto.hypervolume_curve(records, plan.objectives)),
        agreement=agreement(
            [f.record.values for f in finalists], [f.holdout.values for f in finalists], plan.better, plan.accuracies
        ),
    )


def estimates(measurement: Measurement, plan: StudyPlan) -> dict[str, Estimate]:
    """Value and two-sided interval by label."""
    shown = {label: interval(measurement, label, plan.confidence) for label in (*plan.measures, *plan.held_out)}
    return {label: Estimate(i.value, i.low, i.high) for label, i in shown.items()}


def _member(finalist: Finalist, selected: bool, plan: StudyPlan) -> Member:
    record = finalist.record
    return Member(
        name=record.name,
        policy=record.policy,
        digest=record.digest,
        budget=record.values.get("budget"),
        search=dict(record.values),
        holdout=estimates(finalist.holdout, plan),
        constraints={text: v.state for text, v in finalist.verdicts.items()},
        certifiable={text: v.certifiable for text, v in finalist.verdicts.items()},
        selected=selected,
        arm=record.arm,
    )
