"""ask -> dispatch -> settle, until a stop rule says enough; then certify.

The order of writes for each result is: measurement stored -> sampler told -> trial settled (with its outbox row) ->
publisher flushed. Whatever a kill leaves between two of these is repaired by `_Search.repair` at the next start, so an
interrupted study continues to its configured number of trials and measures nothing twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoprune.errors import AutoPruneError, BadInput
from autoprune.policy.budget import Infeasible
from autoprune.ports import Measured, Measurement, Progress, TrialRecord
from autoprune.search import pareto, settle
from autoprune.search.dispatch import Dispatcher, never
from autoprune.search.errors import Interrupted
from autoprune.search.finish import finish
from autoprune.search.holdout import Bench
from autoprune.search.ledger import Ledger
from autoprune.search.memory import UNREACHABLE, Asked, SamplerMemory, Told
from autoprune.search.stop import StopReason, StopRule, check_failures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoprune.policy.front import Front
    from autoprune.ports import Executor, Observer, Origin, Outcome, Publisher, TrialLog, TrialState
    from autoprune.search.plan import Candidate, Reference, StudyPlan


def run(
    plan: StudyPlan,
    executor: Executor,
    log: TrialLog,
    publisher: Publisher,
    observer: Observer,
    stop: Callable[[], bool] = never,
) -> Front:
    """Search and certify; returns the front, whose `explanation` says why when it has no members.

    Raises `Interrupted` when `stop()` turned true (the study is resumable), `AutoPruneError` when the baseline cannot
    be measured or too many evaluations fail. The executor is the caller's to close.
    """
    bench = Bench(plan, executor, log, stop)
    observer.update(Progress("baseline", target=plan.trials))
    baseline = bench.baseline("search")
    search = _Search(plan, executor, log, publisher, observer, stop, baseline)
    search.repair()
    try:
        reason = search.loop()
        return finish(plan, bench, log, publisher, observer, search.ledger.records, baseline, reason)
    except (AutoPruneError, KeyboardInterrupt) as error:
        search.memory.release()
        if isinstance(error, KeyboardInterrupt) and not isinstance(error, Interrupted):
            raise Interrupted("interrupted; the same command continues this study") from error
        raise


@dataclass
class _Point:
    """A candidate on its way to being settled. `followers` were proposed with the same effect while it was running."""

    name: str
    origin: Origin
    candidate: Candidate | None
    asked: Asked | None
    key: str = ""
    followers: list[_Point] = field(default_factory=list)


class _Search:
    """One run of a study: what is settled (ledger), what the sampler knows (memory), what is running (dispatcher)."""

    def __init__(
        self,
        plan: StudyPlan,
        executor: Executor,
        log: TrialLog,
        publisher: Publisher,
        observer: Observer,
        stop: Callable[[], bool],
        baseline: Measurement,
    ) -> None:
        self.plan, self.log, self.publisher, self.observer, self.baseline = plan, log, publisher, observer, baseline
        self.ledger = Ledger(log.trials())
        self.memory = SamplerMemory(plan, self.ledger.records)
        self.rule = StopRule(plan.trials, plan.time_limit, stop)
        self.dispatcher: Dispatcher[_Point] = Dispatcher(
            executor, plan.max_retries, plan.evaluation_timeout, plan.synchronous
        )
        self.running: dict[str, _Point] = {}
        self._references = {r.candidate.digest: r for r in plan.references}
        if self.ledger.baseline is None:
            self._settle_baseline()

    # -------------------------------------------------------------------------------------------------------- start up
    def _settle_baseline(self) -> None:
        key = self.plan.context.key(self.plan.request(None, "search"))
        self._commit(
            TrialRecord(
                number=self.ledger.next_number,
                origin="baseline",
                name="baseline",
                state="complete",
                policy=None,
                canonical=None,
                digest="",
                values=dict(self.baseline.values),
                constraints=settle.search_slacks(self.plan.constraints, self.baseline, self.baseline),
                evaluation_key=key,
                seconds=self.baseline.seconds,
            )
        )

    def repair(self) -> None:
        """Bring memory and log to agree after a driver died between two writes."""
        for told in self.memory.unsettled(self.ledger.records):
            self._settle_told(told)
        self.memory.release()

    def _settle_told(self, told: Told) -> None:
        """The log lacks a trial that the sampler was told: settle it from the store, or have it measured again."""
        try:
            candidate = self._candidate_for(told.reference, told.values)
        except (Infeasible, BadInput):
            candidate = None
        point = _Point(
            name=candidate.name if candidate else "infeasible",
            origin="reference" if told.reference else "trial",
            candidate=candidate,
            asked=None,
            key=told.key,
        )
        if told.state != "complete":
            self._record(point, told.state, told.found, told.slacks, told.reason, told=told)
            return
        stored = self.log.find(told.key)
        if stored is None:
            self.memory.rerun(told.number)
            return
        cached = self.ledger.completed(told.digest) is not None or not self.memory.was_dispatched(told.key)
        self._record(point, "complete", told.found, told.slacks, told.reason, cached, stored.seconds, told)

    # ------------------------------------------------------------------------------------------------------------ loop
    def loop(self) -> StopReason:
        """Keep the executor busy until a stop rule holds and nothing is in flight."""
        while True:
            reason = self._fill()
            if reason == "interrupted":
                raise Interrupted("interrupted; the same command continues this study")
            if not self.dispatcher.running:
                if reason is not None:
                    return reason
                continue
            for point, outcome in self.dispatcher.collect():
                self._receive(point, outcome)

    def _fill(self) -> StopReason | None:
        """Propose until the executor is busy. A reason means: nothing more may be asked as things stand."""
        while self.dispatcher.has_room:
            reason = self.rule.reason(self.ledger, self.dispatcher.running)
            if reason is not None:
                return reason
            if len(self._followers()) > self.dispatcher.running:
                return None  # the sampler repeats what is running; it will know more when that is settled
            self._propose()
        return "interrupted" if self.rule.wish() else None

    def _followers(self) -> list[_Point]:
        return [f for point in self.running.values() for f in point.followers]

    def _propose(self) -> None:
        if not self.memory.has_waiting():
            reference = self._next_reference()
            if reference is not None and not self._is_in_space(reference):
                self._offer(_Point(reference.candidate.name, "reference", reference.candidate, None))
                return
            if reference is not None and reference.params is not None:
                self.memory.enqueue_reference(reference.candidate.digest, reference.params)
        asked = self.memory.ask(self.ledger.fruitless)
        point = _Point("", "reference" if asked.reference in self._references else "trial", None, asked)
        try:
            point.candidate = self._candidate_for(asked.reference, asked.values)
            point.name = point.candidate.name
        except (Infeasible, BadInput) as error:
            point.name = "infeasible"
            self._settle(point, "infeasible", {}, {UNREACHABLE: _distance(error)}, str(error))
            return
        self._offer(point)

    def _next_reference(self) -> Reference | None:
        busy = {p.candidate.digest for p in [*self.running.values(), *self._followers()] if p.candidate}
        for digest, reference in self._references.items():
            if digest not in busy and not self.ledger.is_settled_reference(digest):
                return reference
        return None

    def _is_in_space(self, reference: Reference) -> bool:
        """Whether the space really makes this policy from these values; otherwise the sampler would learn a lie."""
        if reference.params is None or not self.memory.covers(reference.params):
            return False
        try:
            return self.plan.proposals.candidate(reference.params).digest == reference.candidate.digest
        except (Infeasible, BadInput):
            return False

    def _candidate_for(self, reference: str | None, values: Mapping[str, object]) -> Candidate:
        known = self._references.get(reference or "")
        return known.candidate if known is not None else self.plan.proposals.candidate(values)

    def _offer(self, point: _Point) -> None:
        """Settle a candidate from what is known, or have it measured."""
        candidate = _given(point.candidate)
        request = self.plan.request(candidate.canonical, "search")
        point.key = self.plan.context.key(request)
        if point.asked is not None:
            self.memory.identify(point.asked, candidate.digest, point.key)
        if candidate.digest in self.running:
            self.running[candidate.digest].followers.append(point)
        elif not self._settle_from_known(point, candidate):
            self.memory.mark_dispatched(point.key)
            self.running[candidate.digest] = point
            self.dispatcher.submit(request, point)
            self._show()

    def _settle_from_known(self, point: _Point, candidate: Candidate) -> bool:
        earlier = self.ledger.completed(candidate.digest)
        if earlier is not None:
            self._settle(point, "complete", earlier.values, earlier.constraints, f"same as {earlier.name}", cached=True)
            return True
        failure = self.ledger.failure(candidate.digest)
        if failure is not None:
            self._settle(point, "failed", {}, {}, failure.reason, cached=True)
            return True
        costs = {k: float(v) for k, v in self.plan.proposals.costs(candidate).items() if math.isfinite(v)}
        slacks = settle.known_slacks(self.plan.constraints, costs, self.baseline)
        if any(slack > 0 for slack in slacks.values()):
            missed = ", ".join(text for text, slack in slacks.items() if slack > 0)
            self._settle(point, "infeasible", costs, slacks, f"misses {missed}, known without running")
            return True
        stored = self.log.find(point.key)
        if stored is None:
            return False
        outcome = Measured(self.plan.request(candidate.canonical, "search"), stored)
        self._conclude(point, outcome, cached=not self.memory.was_dispatched(point.key))
        return True

    # --------------------------------------------------------------------------------------------------------- settling
    def _receive(self, point: _Point, outcome: Outcome) -> None:
        del self.running[_given(point.candidate).digest]
        self._conclude(point, outcome, cached=False)
        for follower in point.followers:
            if not self._settle_from_known(follower, _given(follower.candidate)):
                # Lost for good: nothing is known about this policy, so its repetition ends the same way.
                self._settle(follower, "failed", {}, {}, self.ledger.records[-1].reason, cached=True)
        check_failures(self.ledger, self.plan.max_failures)

    def _conclude(self, point: _Point, outcome: Outcome, cached: bool) -> None:
        result = settle.usable(outcome, self.plan.measures, self.baseline)
        if isinstance(result, settle.Unusable):
            self._settle(point, "failed", {}, {}, result.reason)
            return
        self.log.remember(point.key, self.plan.request(_given(point.candidate).canonical, "search"), result)
        slacks = settle.search_slacks(self.plan.constraints, result, self.baseline)
        self._settle(point, "complete", result.values, slacks, cached=cached, seconds=result.seconds)

    def _settle(
        self,
        point: _Point,
        state: TrialState,
        values: Mapping[str, float],
        slacks: Mapping[str, float],
        reason: str = "",
        cached: bool = False,
        seconds: float = 0.0,
    ) -> None:
        if point.asked is not None:
            self.memory.tell(point.asked, state, values, slacks, reason)
        self._record(point, state, values, slacks, reason, cached, seconds)

    def _record(
        self,
        point: _Point,
        state: TrialState,
        values: Mapping[str, float],
        slacks: Mapping[str, float],
        reason: str,
        cached: bool = False,
        seconds: float = 0.0,
        told: Told | None = None,
    ) -> None:
        candidate, source = point.candidate, told or point.asked
        self._commit(
            TrialRecord(
                number=self.ledger.next_number,
                origin=point.origin,
                name=point.name,
                state=state,
                policy=None if candidate is None else candidate.document,
                canonical=None if candidate is None else candidate.canonical,
                digest="" if candidate is None else candidate.digest,
                params={} if source is None else dict(source.values),
                values=dict(values),
                constraints=dict(slacks),
                sampler_number=None if source is None else source.number,
                evaluation_key=point.key or None,
                cached=cached,
                reason=reason,
                seconds=seconds,
            )
        )

    def _commit(self, record: TrialRecord) -> None:
        self.log.settle(record)
        self.ledger.add(record)
        self.publisher.flush()
        self._show()

    def _show(self) -> None:
        ledger, objectives = self.ledger, self.plan.objectives
        if any(not ledger.is_settled_reference(digest) for digest in self._references):
            self.observer.update(
                Progress("references", ledger.complete, ledger.failed, self.dispatcher.running, self.plan.trials)
            )
            return
        self.observer.update(
            Progress(
                phase="search",
                complete=ledger.complete,
                failed=ledger.failed,
                running=self.dispatcher.running,
                target=self.plan.trials,
                hypervolume=pareto.hypervolume_of(ledger.records, objectives),
                best=pareto.best_values(ledger.records, objectives),
            )
        )


def _given(candidate: Candidate | None) -> Candidate:
    if candidate is None:
        raise ValueError("a point without a policy cannot be offered")
    return candidate


def _distance(error: Infeasible | BadInput) -> float:
    """How far from possible; 1 where that has no measure. Positive, so that the sampler sees a violation."""
    distance = getattr(error, "distance", None)
    known = isinstance(distance, (int, float)) and math.isfinite(distance) and distance > 0
    return float(distance) if known and distance is not None else 1.0
