"""Where points are offered and settled: one way in, one way out.

The order of writes for each result is: measurement stored -> sampler told -> trial settled (with its outbox row) ->
publisher flushed. Whatever a kill leaves between two of these is repaired by `Desk.repair` at the next start, so an
interrupted study measures nothing twice.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from autoprune.errors import AutoPruneError, BadInput
from autoprune.policy.budget import Infeasible
from autoprune.ports import Lost, Measured, TrialRecord
from autoprune.search import settle
from autoprune.search.dispatch import Dispatcher
from autoprune.search.growth import Growth
from autoprune.search.ledger import Ledger
from autoprune.search.memories import Memories
from autoprune.search.memory import UNREACHABLE, Asked, SamplerMemory, Told
from autoprune.search.rungs import DROPPED, Standings
from autoprune.search.settle import Fate
from autoprune.search.stop import check_failures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autoprune.ports import EvalRequest, Executor, Measurement, Origin, Outcome, Publisher, TrialLog, TrialState
    from autoprune.search.plan import Candidate, Reference, StudyPlan
    from autoprune.search.strategy import SamplerKind


@dataclass
class Point:
    """A candidate on its way to being settled. `limit`: measured on the first so many records only, by these `measures`
    (None: all). `climbs`: it goes through the rungs first, `rung` is the index of the one it is at. `known`: on how
    many records it was measured before. `arm`: the strategy made it for this one, without the sampler. `followers` were
    proposed with the same effect while it was running."""

    phase: str
    origin: Origin
    candidate: Candidate | None
    asked: Asked | None
    limit: int | None = None
    measures: tuple[str, ...] | None = None
    climbs: bool = False
    rung: int | None = None
    key: str = ""
    known: int = 0
    arm: str = ""
    followers: list[Point] = field(default_factory=list)

    @property
    def name(self) -> str:
        return "infeasible" if self.candidate is None else self.candidate.name


class Desk:
    """What is settled (ledger), what the sampler knows (memory), what is running (dispatcher)."""

    def __init__(
        self,
        plan: StudyPlan,
        executor: Executor,
        log: TrialLog,
        publisher: Publisher,
        baseline: Measurement,
        standings: Standings,
        show: Callable[[Desk], None],
    ) -> None:
        self.plan, self.log, self.publisher, self.baseline = plan, log, publisher, baseline
        log.hold()  # as before everything that is written to the sampler's memory: nothing else guards that
        self.ledger = Ledger(log.trials())
        self.growth = Growth(plan.objectives, self.ledger.records)
        self.memory = Memories(plan, self.ledger.records, SamplerMemory)
        self.dispatcher: Dispatcher[Point] = Dispatcher(executor, plan.max_retries, plan.synchronous)
        self.running: dict[str, Point] = {}
        self.baselines: dict[int | None, Measurement] = {None: baseline}
        self.standings = standings
        self.references: dict[str, Reference] = {r.candidate.digest: r for r in plan.references}
        self._show = show
        if self.ledger.baseline is None:
            self._settle_baseline()
        for record in self.ledger.records if plan.rungs else ():
            self._restore(record)

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

    def _restore(self, record: TrialRecord) -> None:
        """Where a settled policy stands at the rungs."""
        if record.state == "complete" and record.origin != "baseline" and not record.cached:
            found = self.log.find(record.evaluation_key or "")
            if found is not None:
                self.standings.add_complete(record.digest, found)
        for index, rung in enumerate(self.plan.rungs):
            if self.ledger.look(record.digest, rung) is record:
                self.standings.add(index, record.digest, record.values)

    def repair(self) -> None:
        """Bring memory and log to agree after a driver died between two writes."""
        for told in self.memory.unsettled(self.ledger.records):
            self._settle_told(told)
        self.release()

    def release(self) -> None:
        """Give back what was in flight, so that it is asked again."""
        self.log.hold()
        self.memory.release()

    def _settle_told(self, told: Told) -> None:
        """The log lacks a trial that the sampler was told: settle it from the store, or have it measured again."""
        try:
            candidate = self.candidate_for(told.reference, told.values, told.arm)
        except (Infeasible, BadInput):
            candidate = None
        origin: Origin = "reference" if told.reference else "trial"
        point = Point(told.phase, origin, candidate, asked=None, limit=told.limit, key=told.key)
        if told.fate.state not in ("complete", "partial", "screened"):
            self._record(point, told.fate, told)
            return
        stored = self.log.find(told.key)
        if stored is None:
            self.memory.of[told.arm].rerun(told.number)
            return
        known = self.ledger.measured(told.digest, told.limit) if told.fate.state != "screened" else None
        cached = known is not None or not self.memory.was_dispatched(told.key)
        self._record(point, replace(told.fate, cached=cached, seconds=stored.seconds, fresh=stored.fresh), told)
        self._restore(self.ledger.records[-1])

    # -------------------------------------------------------------------------------------------------------- offering
    def ask(self, kind: SamplerKind, phase: str, arm: str, climbs: bool = False) -> None:
        """Take an arm's next proposal (or the values that wait there) and offer it; `climbs`: at the first rung."""
        asked = self.memory.ask(kind, self.ledger.fruitless(phase), arm)
        origin: Origin = "reference" if asked.reference in self.references else "trial"
        point = Point(asked.phase or phase, origin, None, asked, climbs=climbs or asked.climbs)
        try:
            point.candidate = self.candidate_for(asked.reference, asked.values, arm)
        except (Infeasible, BadInput) as error:
            self._settle(point, Fate("infeasible", slacks={UNREACHABLE: distance(error)}, reason=str(error)))
            return
        self.offer(point)

    def candidate_for(self, reference: str | None, values: Mapping[str, object], arm: str) -> Candidate:
        known = self.references.get(reference or "")
        return known.candidate if known is not None else self.plan.arms[arm].candidate(values)

    def offer(self, point: Point) -> None:
        """Settle a candidate from what is known, or have it measured."""
        self.log.hold()
        candidate = given(point.candidate)
        if point.climbs:
            point.rung = self._next_rung(candidate.digest)
            point.limit = None if point.rung is None else self.plan.rungs[point.rung].limit
        request = self._request(point)
        point.key = self.plan.context.key(request)
        if point.asked is not None:
            self.memory.of[point.asked.arm].identify(
                point.asked, point.phase, candidate.digest, point.key, point.climbs
            )
        if point.key in self.running:
            self.running[point.key].followers.append(point)
        elif not self._settle_from_known(point, candidate):
            self.memory.mark_dispatched(point.key)
            self.running[point.key] = point
            known = self._look(candidate.digest, request)
            point.known = 0 if known is None else len(known.images)
            self.dispatcher.submit(replace(request, known=known), point)
            self._show(self)

    def _look(self, digest: str, request: EvalRequest) -> Measurement | None:
        """What is known of the policy by any of these measures, on most records; so only the others are paid for."""
        for record in self.ledger.measurements(digest):
            found = self.log.find(record.evaluation_key or "")
            if found is not None and any(label in found.samples for label in request.measures):
                return found
        return None

    def _next_rung(self, digest: str) -> int | None:
        """The first rung that the policy was not promoted from; None when only the full evaluation is left."""
        if self.ledger.measured(digest) is not None:
            return None
        for index, rung in enumerate(self.plan.rungs):
            look = self.ledger.look(digest, rung)
            if look is None or look.reason.startswith(DROPPED):
                return index
        return None

    def _request(self, point: Point) -> EvalRequest:
        read = point.measures if point.rung is None else self.plan.rungs[point.rung].measures
        measures = self.plan.beside(read)
        return self.plan.request(given(point.candidate).canonical, "search", limit=point.limit, measures=measures)

    @property
    def running_arms(self) -> Counter[str]:
        """How many proposals of each arm are in flight."""
        flying = [*self.running.values(), *self.followers]
        return Counter(p.asked.arm for p in flying if p.asked is not None and p.origin == "trial")

    @property
    def followers(self) -> list[Point]:
        return [f for point in self.running.values() for f in point.followers]

    @property
    def running_share(self) -> float:
        """What is in flight, in full evaluations; what is at a rung may come to need all the rest."""
        return sum(self._wanted(point) - self.share(point.known) for point in self.running.values())

    def _wanted(self, point: Point) -> float:
        return self.climb if point.rung is not None else max(self.share(point.limit), self.share(point.known))

    @property
    def climb(self) -> float:
        """The most that one proposal may cost: every record once, and those that a screen measures by something that
        the study never does."""
        passes = self.plan.passes
        own = {passes[label] for label in self.plan.measures if label in passes}
        apart = [r for r in self.plan.rungs if passes and own.isdisjoint(passes.get(label) for label in r.measures)]
        return 1.0 + sum(self.share(rung.limit) for rung in apart)

    def share(self, records: int | None) -> float:
        """What running so many records (None: all) is of a full evaluation."""
        return 1.0 if records is None else records / len(self.baseline.images)

    def _settle_from_known(self, point: Point, candidate: Candidate) -> bool:
        earlier = self._known(point, candidate.digest)
        if earlier is not None and point.rung is not None and not earlier.reason.startswith(DROPPED):
            self._judge(point, Fate.again(earlier))  # a strategy's probe was there before
            return True
        if earlier is not None:
            self._settle(point, Fate.again(earlier))
            return True
        failure = self.ledger.failure(candidate.digest)
        if failure is not None:
            self._settle(point, Fate("failed", reason=failure.reason, cached=True))
            return True
        wanted = point.limit is not None and point.rung is None  # a part is an answer, wanted all the same
        if not wanted and self._rule_out(point, candidate):
            return True
        stored = self.log.find(point.key)
        if stored is None:
            return False
        cached = not self.memory.was_dispatched(point.key)
        self._conclude(point, Measured(self._request(point), stored), cached)
        return True

    def _rule_out(self, point: Point, candidate: Candidate) -> bool:
        """Settle what misses a constraint by costs that are known without running."""
        costs = {k: float(v) for k, v in self.plan.proposals.costs(candidate).items() if math.isfinite(v)}
        slacks = settle.known_slacks(self.plan.constraints, costs, self.baseline)
        missed = ", ".join(text for text, slack in slacks.items() if slack > 0)
        if missed:
            self._settle(point, Fate("infeasible", costs, slacks, f"misses {missed}, known without running"))
        return bool(missed)

    def _known(self, point: Point, digest: str) -> TrialRecord | None:
        if point.rung is None:
            return self.ledger.measured(digest, point.limit, self.plan.beside(point.measures))
        rung = self.plan.rungs[point.rung]
        look = self.ledger.look(digest, rung)
        return look or (self.ledger.measured(digest, rung.limit, rung.measures) if rung.state == "partial" else None)

    # --------------------------------------------------------------------------------------------------------- settling
    def collect(self) -> None:
        """Wait for something to end, and settle it."""
        ended = self.dispatcher.collect()
        for done, (point, outcome) in enumerate(ended, 1):
            try:
                self._receive(point, outcome)
            except AutoPruneError:
                for other, paid in ended[done:]:
                    self._usable(other, paid)  # it is in the store then: whoever goes on does not measure it again
                raise
        if ended:
            check_failures(self.ledger, self.plan.max_failures)

    def _receive(self, point: Point, outcome: Outcome) -> None:
        del self.running[point.key]
        followers, point.followers = point.followers, []
        self._conclude(point, outcome, cached=False)
        for follower in followers:
            if isinstance(outcome, Lost):  # for good: its repetition ends the same way
                self._settle(follower, Fate("failed", reason=self.ledger.records[-1].reason, cached=True))
            else:
                self.offer(follower)

    def _conclude(self, point: Point, outcome: Outcome, cached: bool) -> None:
        rung = None if point.rung is None else self.plan.rungs[point.rung]
        baseline = self._baseline_of(point)
        result = self._usable(point, outcome)
        if isinstance(result, settle.Unusable):
            self._settle(point, Fate("failed", reason=result.reason, lineage=outcome.lineage))
            return
        bounds = [c for c in (rung or self.plan).constraints if c.label in result.values]
        slacks = settle.search_slacks(bounds, result, baseline)
        state: TrialState = rung.state if rung is not None else "complete" if point.limit is None else "partial"
        values = result.values if rung is None else {label: result.values[label] for label in rung.measures}
        fate = Fate(state, values, slacks, "", cached, result.seconds, outcome.lineage, result.fresh)
        if rung is not None:
            self._judge(point, fate)
            return
        if point.limit is None:
            self.standings.add_complete(given(point.candidate).digest, result)
        self._settle(point, fate)

    def _baseline_of(self, point: Point) -> Measurement:
        return self.baselines[point.limit] if point.rung is None else self.standings.baselines[point.rung]

    def _usable(self, point: Point, outcome: Outcome) -> Measurement | settle.Unusable:
        """The outcome's numbers, stored; or why they are of no use."""
        result = settle.usable(outcome, outcome.request.measures, self._baseline_of(point))
        if not isinstance(result, settle.Unusable):
            self.log.remember(point.key, replace(outcome.request, known=None), result)
        return result

    def _judge(self, point: Point, fate: Fate) -> None:
        """Drop what came to these values at its rung, or offer it again, one step further. The look at a promoted one
        is settled by itself (it was paid for); its proposal waits for the end."""
        if point.rung is None:
            raise ValueError("judged without a rung")
        verdict = self.standings.judge(point.rung, given(point.candidate).digest, fate.values)
        judged = replace(fate, state=self.plan.rungs[point.rung].state, reason=verdict.reason)
        if not verdict.promoted:
            self._settle(point, judged)
            return
        self._record(replace(point, asked=None), judged)
        self.offer(point)

    def _settle(self, point: Point, fate: Fate) -> None:
        if point.asked is not None:
            self.log.hold()
            self.memory.of[point.asked.arm].tell(point.asked, fate, point.limit)
        self._record(point, fate)

    def _record(self, point: Point, fate: Fate, told: Told | None = None) -> None:
        candidate, source = point.candidate, told or point.asked
        self._commit(
            TrialRecord(
                number=self.ledger.next_number,
                origin=point.origin,
                name=point.name,
                state=fate.state,
                policy=None if candidate is None else candidate.document,
                canonical=None if candidate is None else candidate.canonical,
                digest="" if candidate is None else candidate.digest,
                params={} if source is None else dict(source.values),
                values=dict(fate.values),
                constraints=dict(fate.slacks),
                sampler_number=None if source is None else source.number,
                evaluation_key=point.key or None,
                cached=fate.cached,
                reason=fate.reason,
                seconds=fate.seconds,
                phase=point.phase,
                limit=point.limit,
                share=self.share(point.limit if fate.fresh is None else fate.fresh),
                arm=point.arm if source is None else source.arm,
                lineage=fate.lineage,
            )
        )

    def _commit(self, record: TrialRecord) -> None:
        self.log.settle(record)
        self.ledger.add(record)
        self.growth.add(record)
        self.publisher.flush()
        self._show(self)


def given(candidate: Candidate | None) -> Candidate:
    """The candidate of a point that has one."""
    if candidate is None:
        raise ValueError("a point without a policy cannot be offered")
    return candidate


def distance(error: Infeasible | BadInput) -> float:
    """How far from possible; 1 where that has no measure. Positive, so that the sampler sees a violation."""
    known = getattr(error, "distance", None)
    good = isinstance(known, (int, float)) and math.isfinite(known) and known > 0
    return float(known) if good and known is not None else 1.0
