"""From the settled trials to a front: finalists, their holdout numbers, verdicts, and the one that is selected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoprune.ports import Measurement, Progress
from autoprune.search import pareto
from autoprune.search.assemble import assemble
from autoprune.search.certify import Finalist, certify, sequence
from autoprune.search.explanations import explain
from autoprune.search.explanations.evidence import Evidence
from autoprune.search.remarks import remarks
from autoprune.search.settle import Unusable
from autoprune.search.sizing import observed_need

if TYPE_CHECKING:
    from autoprune.policy.front import Front
    from autoprune.ports import Observer, Publisher, TrialLog, TrialRecord
    from autoprune.search.holdout import Bench, Result
    from autoprune.search.plan import StudyPlan
    from autoprune.search.stop import StopReason
    from autoprune.spec.goals import Objective


def finish(
    plan: StudyPlan,
    bench: Bench,
    log: TrialLog,
    publisher: Publisher,
    observer: Observer,
    records: Sequence[TrialRecord],
    baseline: Measurement,
    reason: StopReason,
    said: Sequence[str] = (),
) -> Front:
    """Certify the search front on the holdout and save the front's document. `said`: what the strategy told."""
    counts = _Counts.of(records)
    notes: list[str] = list(said)
    ordered = sequence(pareto.search_front(records, plan.objectives), _costs(plan))
    finalists: list[Finalist] = []
    on_holdout: Measurement | None = None
    if ordered:
        observer.update(Progress("certify", 0, counts.failed, 0, len(ordered)))
        sized = _size_holdout(plan, bench, log, ordered, baseline)
        if any(not bench.is_stored(_canonical(r), "holdout") for r in ordered):
            log.count_holdout_use()  # before looking: a kill between the two must not hide a use
        on_holdout = bench.baseline("holdout")
        results = bench.policies(
            [_canonical(r) for r in ordered],
            "holdout",
            on_holdout,
            lambda done: observer.update(Progress("certify", done, counts.failed, 0, len(ordered))),
        )
        finalists, trouble = _judge(plan, ordered, results, on_holdout)
        notes += trouble
        if plan.holdout_auto or any(f.rank == 1 for f in finalists):
            notes.append(sized)
    members = drop_dominated(finalists, plan.objectives)
    notes += remarks(plan.constraints, finalists, len(members))
    found, lines = explain(Evidence(plan, records, baseline, [m.record for m in members], reason))
    chosen = select(members, plan)
    front = assemble(plan, records, on_holdout, members, chosen, [*notes, *lines], found, finalists)
    front = replace(front, holdout_uses=log.times_looked())
    log.save_front(front.to_json())
    publisher.flush()
    return front


def _size_holdout(
    plan: StudyPlan, bench: Bench, log: TrialLog, ordered: Sequence[TrialRecord], baseline: Measurement
) -> str:
    """How many records certify, in a line; with `holdout: auto` no more are used. Decided on the search split alone."""
    measured = [m for r in ordered if r.evaluation_key and (m := log.find(r.evaluation_key)) is not None]
    need, there = observed_need(plan.constraints, measured, baseline, plan.confidence), plan.holdout_records
    if need is None:
        return "holdout: all records (no constraint tells how many are needed)"
    many = f"all {need.tests} tests" if need.tests > 1 else "the one test"
    if need.records is None:
        said = f"no number of records is likely to pass {many}: a finalist is hardly above its bound in the search"
    else:
        said = f"{need.records} records pass {many} four times in five, at the margins seen in the search"
    # No limit where all are needed: a study that goes on must not measure the same again.
    if plan.holdout_auto and need.records is not None and (there is None or need.records < there):
        bench.holdout_limit = need.records
    used = "" if there is None else f"; {bench.holdout_limit or 'all'} of {there} are used"
    return f"holdout: {said}{used}"


def _judge(
    plan: StudyPlan, ordered: Sequence[TrialRecord], results: Sequence[Result], baseline: Measurement
) -> tuple[list[Finalist], list[str]]:
    verdicts = certify(plan.constraints, results, baseline, plan.confidence)
    finalists, trouble = [], []
    for record, result, verdict in zip(ordered, results, verdicts, strict=True):
        if isinstance(result, Unusable):
            trouble.append(f"{record.name} could not be measured on the holdout ({result.reason})")
        else:
            finalists.append(Finalist(record, result, verdict))
    return finalists, trouble


def drop_dominated(finalists: Sequence[Finalist], objectives: Sequence[Objective]) -> list[Finalist]:
    """The non-dominated on the holdout. One that is less surely within the constraints drops nobody: an undecided
    policy that looks better must not cost the user the certified one."""
    points = [pareto.signed(f.holdout.values, objectives) for f in finalists]
    kept = []
    for i, finalist in enumerate(finalists):
        beaten = any(
            rival.rank <= finalist.rank
            and (
                pareto.dominates(points[j], points[i])
                or (points[j] == points[i] and (rival.rank, j) < (finalist.rank, i))
            )
            for j, rival in enumerate(finalists)
            if j != i
        )
        if not beaten:
            kept.append(finalist)
    return kept


def select(members: Sequence[Finalist], plan: StudyPlan) -> Finalist | None:
    """The certified member that is best by the plan's cost (default: the first objective that is a cost, else the first
    cost), judged on the search split: never by a holdout score."""
    certified = [m for m in members if m.rank == 0]
    goal = plan.select or next((o for o in plan.objectives if o.label in plan.costs), None)
    label = goal.label if goal is not None else plan.costs[0] if plan.costs else None
    if label is None or not certified:
        return None
    sign = -1.0 if goal is not None and goal.direction == "maximize" else 1.0
    return min(certified, key=lambda m: (sign * m.record.values[label], m.record.digest))


def _costs(plan: StudyPlan) -> tuple[str, ...]:
    """What orders the finalists: the plan's costs, else what is selected by, else the first minimised objective."""
    if plan.costs:
        return plan.costs
    if plan.select is not None and plan.select.direction == "minimize":
        return (plan.select.label,)
    return tuple(o.label for o in plan.objectives if o.direction == "minimize")[:1]


def _canonical(record: TrialRecord) -> str:
    if record.canonical is None:
        raise ValueError(f"{record.name} has no canonical policy")
    return record.canonical


@dataclass(frozen=True)
class _Counts:
    complete: int
    failed: int

    @classmethod
    def of(cls, records: Sequence[TrialRecord]) -> _Counts:
        points = [r for r in records if r.origin != "baseline" and not r.cached]
        return cls(sum(r.state == "complete" for r in points), sum(r.state == "failed" for r in points))
