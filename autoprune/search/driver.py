"""references -> the strategy's steps -> certification. The strategy says what it wants to know, the desk settles it,
stop rules say when it is enough."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.errors import AutoPruneError, BadInput, LeaseLost
from autoprune.outage import hurried
from autoprune.policy.budget import Infeasible
from autoprune.policy.prefix import prefix_key
from autoprune.ports import Progress
from autoprune.search import strategy
from autoprune.search.bandit import Bandit
from autoprune.search.by_arm import by_arm
from autoprune.search.desk import Desk, Point
from autoprune.search.dispatch import never
from autoprune.search.errors import Interrupted
from autoprune.search.finish import finish
from autoprune.search.holdout import Bench
from autoprune.search.placement import narrowed
from autoprune.search.rungs import Standings
from autoprune.search.sampler_storage import forgiven, translated
from autoprune.search.stop import EXHAUSTED_AFTER, ROUNDING, StopReason, StopRule
from autoprune.search.strategy import Answer, Probe, Probes, Sample, Step, Task, Tell

if TYPE_CHECKING:
    from autoprune.policy.front import Front
    from autoprune.ports import Executor, Measurement, Observer, Publisher, TrialLog, TrialRecord
    from autoprune.search.plan import Candidate, Reference, StudyPlan

REFERENCES = "references"


@dataclass(frozen=True)
class Offer:
    """What is settled next by calling `make`, and the most that it may cost, in full evaluations."""

    cost: float
    make: Callable[[], None]


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
    be measured, too many evaluations fail or the sampler's database does; LeaseLost, without touching anything more,
    when another driver has taken the study over. The executor is the caller's to close.
    """
    with translated():
        return _run(plan, executor, log, publisher, observer, stop)


def _run(
    plan: StudyPlan,
    executor: Executor,
    log: TrialLog,
    publisher: Publisher,
    observer: Observer,
    stop: Callable[[], bool],
) -> Front:
    bench = Bench(plan, executor, log, stop)
    observer.update(Progress("baseline", target=plan.trials))
    baseline = bench.baseline("search")
    plan, narrowing = narrowed(plan, lambda records, labels: bench.baseline("search", records, labels))
    for line in narrowing:
        observer.update(Progress("baseline", target=plan.trials, message=line))
    search = _Search(plan, executor, log, publisher, observer, stop, bench, baseline)
    search.desk.repair()
    try:
        reason = search.loop()
        records = search.desk.ledger.records
        said = [*narrowing, *search.said, *search.bandit.told(records)]
        return finish(plan, bench, log, publisher, observer, records, baseline, reason, said)
    except LeaseLost:
        raise  # what is in flight is the other driver's
    except (AutoPruneError, KeyboardInterrupt) as error:
        with forgiven("giving back what was in flight"), hurried():
            search.desk.release()
        if isinstance(error, KeyboardInterrupt) and not isinstance(error, Interrupted):
            raise Interrupted("interrupted; the same command continues this study") from error
        raise


class _Enough(Exception):
    """A stop rule holds and nothing is in flight."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class _Search:
    """One run of a study: serves the strategy's steps until it ends or a stop rule holds."""

    def __init__(
        self,
        plan: StudyPlan,
        executor: Executor,
        log: TrialLog,
        publisher: Publisher,
        observer: Observer,
        stop: Callable[[], bool],
        bench: Bench,
        baseline: Measurement,
    ) -> None:
        self.plan, self.executor, self.observer, self.bench = plan, executor, observer, bench
        self.phase = REFERENCES
        looks = [bench.baseline("search", rung.limit, rung.measures) for rung in plan.rungs]
        standings = Standings(plan.rungs, looks, baseline)
        self.desk = Desk(plan, executor, log, publisher, baseline, standings, self._show)
        self.rule = StopRule(plan.trials, plan.time_limit, stop)
        self.references = list(self.desk.references.items())
        if len(self.references) <= plan.trials:  # else the first are wanted most
            self.references.sort(key=lambda named: prefix_key(named[1].candidate.canonical))
        self.bandit = Bandit(tuple(plan.arms), plan.objectives)
        self.exhausted = False
        self.said: list[str] = []

    # ------------------------------------------------------------------------------------------------------------ loop
    def loop(self) -> StopReason:
        """Serve references and then the strategy. A study that goes on first asks again what was in flight."""
        try:
            self._drive(self._upcoming_reference)
            steps = self._steps()
            step = next(steps, None)
            while step is not None:
                step = _sent(steps, self._serve(step))
            return "exhausted" if self.exhausted else "finished"
        except _Enough as enough:
            return enough.reason

    def _steps(self) -> strategy.Steps:
        """The strategy's, by itself or in the arms."""

        def begin(task: Task) -> strategy.Steps:
            return strategy.start(self.plan.strategy, self.plan.options, task)

        arms = self.plan.arms
        return begin(self._task()) if len(arms) == 1 else by_arm(self._task(), arms, begin)

    def _task(self) -> Task:
        plan, ledger = self.plan, self.desk.ledger

        def known(*phases: str) -> list[TrialRecord]:
            return [r for r in ledger.records if r.origin != "baseline" and r.phase in phases]

        return Task(
            proposals=plan.proposals,
            objectives=plan.objectives,
            constraints=plan.constraints,
            baseline=self.desk.baseline,
            trials=plan.trials,
            references=len(plan.references),
            seed=plan.seed,
            width=max(1, self.executor.capacity),
            known=known,
            arm=plan.first_arm,
        )

    def _serve(self, step: Step) -> Sequence[Answer]:
        if isinstance(step, Tell):
            self.said.append(step.line)
            self.observer.update(Progress("search", target=self.plan.trials, message=step.line))
            return ()
        self.phase = step.phase
        return self._sample(step) if isinstance(step, Sample) else self._probe(step)

    def _drive(self, upcoming: Callable[[], Offer | None]) -> None:
        """Keep the executor busy with what is upcoming, until that is nothing and nothing is in flight. Raises
        `_Enough` when something is upcoming then and a stop rule holds, `Interrupted` at once."""
        desk = self.desk
        while True:
            reason: StopReason | None = None
            while desk.dispatcher.has_room:
                offer = upcoming()
                reason = None if offer is None else self.rule.reason(desk.ledger, desk.running_share, offer.cost)
                if offer is None or reason is not None:
                    break
                desk.log.hold()
                offer.make()
            if reason == "interrupted" or self.rule.wish():
                raise Interrupted("interrupted; the same command continues this study")
            if desk.dispatcher.running:
                desk.collect()
            elif reason is not None:
                raise _Enough(reason)
            else:
                return

    # ------------------------------------------------------------------------------------------------------ references
    def _upcoming_reference(self) -> Offer | None:
        waiting = self.desk.memory.waiting()
        if waiting is not None:
            # It was let in before; what was held back for it then is still there.
            return Offer(0.0, lambda: self.desk.ask("random", REFERENCES, waiting))
        reference = self._next_reference()
        return None if reference is None else Offer(1.0, lambda: self._offer_reference(reference))

    def _offer_reference(self, reference: Reference) -> None:
        desk, arm = self.desk, reference.arm or self.plan.first_arm
        if reference.params is None or not self._makes(reference.params, reference.candidate, arm):
            desk.offer(Point(REFERENCES, "reference", reference.candidate, None))
            return
        desk.memory.of[arm].enqueue(reference.params, reference.candidate.digest)
        desk.ask("random", REFERENCES, arm)

    def _next_reference(self) -> Reference | None:
        desk = self.desk
        busy = {p.candidate.digest for p in [*desk.running.values(), *desk.followers] if p.candidate}
        for digest, reference in self.references:
            if digest not in busy and not desk.ledger.is_settled_reference(digest):
                return reference
        return None

    def _makes(self, values: Mapping[str, Any], candidate: Candidate, arm: str) -> bool:
        """Whether the arm really makes this policy from these values; otherwise the sampler would learn a lie."""
        if not self.desk.memory.of[arm].covers(values):
            return False
        try:
            return self.plan.arms[arm].candidate(values).digest == candidate.digest
        except (Infeasible, BadInput):
            return False

    # ---------------------------------------------------------------------------------------------------------- probes
    def _probe(self, step: Probes) -> Sequence[Answer]:
        """Every probe's answer, in order. What is known already costs nothing and is not settled again."""
        arm = step.arm or self.plan.first_arm
        candidates = [self._made(probe, arm) for probe in step.probes]
        self._prepare({p.limit for p in step.probes})
        asked = [(p, c) for p, c in zip(step.probes, candidates, strict=True) if not isinstance(c, str)]
        waiting = self._ordered([(p, c) for p, c in asked if self._known(p, c) is None])

        def upcoming() -> Offer | None:
            while waiting and self._known(*waiting[0]) is not None:
                waiting.popleft()
            if not waiting:
                return None
            return Offer(
                self.desk.share(waiting[0][0].limit), lambda: self._offer_probe(step.phase, arm, *waiting.popleft())
            )

        self._drive(upcoming)
        return [self._answer(p, c) for p, c in zip(step.probes, candidates, strict=True)]

    def _ordered(self, asked: list[tuple[Probe, Candidate]]) -> deque[tuple[Probe, Candidate]]:
        """Policies that begin alike one after the other, so that workers find what they share still there; as asked
        where trials may run out on the way, because the first are wanted most. Only of what is not known yet: a study
        that goes on in the middle then has the same order."""
        left = self.plan.trials - self.desk.ledger.spent()
        cost = {(candidate.digest, probe.limit): self.desk.share(probe.limit) for probe, candidate in asked}
        if left >= sum(cost.values()) - ROUNDING:
            asked.sort(key=lambda pair: prefix_key(pair[1].canonical))
        return deque(asked)

    def _prepare(self, limits: set[int | None]) -> None:
        """Costs of part of the records are compared with the baseline's of the same part."""
        for limit in limits - self.desk.baselines.keys():
            self.desk.baselines[limit] = self.bench.baseline("search", limit)

    def _made(self, probe: Probe, arm: str) -> Candidate | str:
        """The probe's candidate, or why there is none."""
        proposals = self.plan.arms[arm]
        try:
            return (
                proposals.candidate(probe.values) if probe.values is not None else proposals.free(probe.document or {})
            )
        except (Infeasible, BadInput) as error:
            return str(error)

    def _known(self, probe: Probe, candidate: Candidate) -> TrialRecord | None:
        ledger = self.desk.ledger
        labels = self.plan.beside(probe.measures)
        known = ledger.measured(candidate.digest, probe.limit, labels) or ledger.failure(candidate.digest)
        return known or (ledger.ruled_out(candidate.digest) if probe.limit is None else None)

    def _offer_probe(self, phase: str, arm: str, probe: Probe, candidate: Candidate) -> None:
        """As a proposal of the sampler's where the space has it: then it learns from it."""
        values = None
        if probe.limit is None:
            values = probe.values if probe.values is not None else self.plan.arms[arm].express(probe.document or {})
        memory = self.desk.memory
        if values is not None and memory.waiting() is None and self._makes(values, candidate, arm):
            memory.of[arm].enqueue(values)
            self.desk.ask("random", phase, arm)
        else:
            self.desk.offer(Point(phase, "trial", candidate, None, probe.limit, probe.measures, arm=arm))

    def _answer(self, probe: Probe, candidate: Candidate | str) -> Answer:
        if isinstance(candidate, str):
            return Answer(probe, "infeasible", reason=candidate)
        record = self._known(probe, candidate) or self.desk.ledger.lost(candidate.digest)
        if record is None:
            raise AutoPruneError(f"{candidate.name} was asked for and not settled")
        return Answer(probe, record.state, record.values, record.constraints, candidate, record.reason)

    # --------------------------------------------------------------------------------------------------------- samples
    def _sample(self, step: Sample) -> Sequence[Answer]:
        """Propose until the phase has its share, or the space holds nothing new."""
        desk = self.desk
        self.exhausted = False

        def upcoming() -> Offer | None:
            if step.trials is not None and desk.ledger.spent(step.phase) + desk.running_share >= step.trials:
                return None
            if desk.ledger.fruitless(step.phase) >= EXHAUSTED_AFTER:
                self.exhausted = True
                return None
            if len(desk.followers) > desk.dispatcher.running:
                return None  # the sampler repeats what is running; it will know more when that is settled
            arm = self.bandit.choose(desk.ledger.records, desk.running_arms)
            return Offer(desk.climb, lambda: desk.ask(step.sampler, step.phase, arm, climbs=True))

        self._drive(upcoming)
        return ()

    def _show(self, desk: Desk) -> None:
        ledger = desk.ledger
        self.observer.update(
            Progress(
                phase="references" if self.phase == REFERENCES else "search",
                complete=ledger.complete,
                failed=ledger.failed,
                running=desk.dispatcher.running,
                target=self.plan.trials,
                hypervolume=desk.growth.hypervolume,
                best=dict(desk.growth.best),
                step="" if self.phase == REFERENCES else self.phase,
            )
        )


def _sent(steps: strategy.Steps, answers: Sequence[Answer]) -> Step | None:
    try:
        return steps.send(answers)
    except StopIteration:
        return None
