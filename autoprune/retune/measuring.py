"""The champion and its front, measured on the model as it is now: search split and holdout, beside the unpruned one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from autoprune.api.proposals import candidate
from autoprune.errors import BadInput
from autoprune.policy import canonical
from autoprune.policy.budget import Infeasible
from autoprune.ports import Progress, TrialRecord
from autoprune.pruning.plan import make_plan
from autoprune.retune.comparing import Before, Comparison, compare
from autoprune.search.assemble import assemble
from autoprune.search.certify import Finalist, certify, sequence, standing
from autoprune.search.settle import Unusable, search_slacks

if TYPE_CHECKING:
    from autoprune.api.study import Prepared
    from autoprune.policy.document import Policy
    from autoprune.policy.front import Estimate, Front
    from autoprune.ports import Measurement, Observer
    from autoprune.retune.champion import Champion
    from autoprune.search.certify import State
    from autoprune.search.holdout import Bench
    from autoprune.search.plan import Candidate, StudyPlan
    from autoprune.spec.retuning import Margin
    from autoprune.store.study_log import StudyLog


@dataclass(frozen=True)
class Remeasured:
    """What was found. `front` has the champion selected; None where the champion cannot be measured (`why_not`)."""

    front: Front | None
    standing: State | None
    old_self: tuple[Comparison, ...]
    model: tuple[Comparison, ...]
    why_not: str = ""


@dataclass(frozen=True)
class Remeasuring:
    """One study's means to measure policies again."""

    study: Prepared
    plan: StudyPlan
    bench: Bench
    log: StudyLog
    margin: Margin
    observer: Observer

    # ------------------------------------------------------------------------------------------------- the first look
    def remeasure(self, champion: Champion) -> Remeasured:
        """The champion is tested first, then the others of its front, dearest first: the order of the fixed sequence
        (search.certify) is known before the holdout is looked at."""
        reasons: dict[str, str] = {}
        policies = champion.policies()
        bound = self._bound(policies, reasons)
        records = self._on_search(bound, reasons)
        own = bound[0].digest if bound and policies[0].name not in reasons else None
        first = [r for r in records if r.digest == own]
        others = sequence([r for r in records if r.digest != own], self.plan.costs)
        finalists = self._on_holdout([*first, *others], reasons)
        baseline = self.bench.baseline("holdout")
        model = self._compared(baseline, self._before(champion, None, baseline_of(champion)))
        mine = next((f for f in finalists if f.record.digest == own), None)
        if mine is None:
            return Remeasured(None, None, (), model, reasons.get(policies[0].name, "it is not measured"))
        before = self._before(champion, str(mine.record.canonical), champion.member.holdout)
        dearest = sequence([f.record for f in finalists], self.plan.costs)
        members = sorted(finalists, key=lambda f: dearest.index(f.record))
        front = assemble(self.plan, records, baseline, members, mine, [], {}, finalists)
        return Remeasured(front, standing(mine.verdicts), self._compared(mine.holdout, before), model)

    def _bound(self, policies: Sequence[Policy], reasons: dict[str, str]) -> list[Candidate]:
        """Those that this model can carry out, each effect once; why others cannot be goes to `reasons` by name."""
        bound: dict[str, Candidate] = {}
        for policy in policies:
            try:
                made = candidate(policy, self.study.geometry, self.study.tokens, policy.name)
                make_plan(canonical.from_json(made.canonical), self.study.geometry)
            except (BadInput, Infeasible) as error:
                reasons[policy.name] = str(error)
            else:
                bound.setdefault(made.digest, made)
        return list(bound.values())

    def _on_search(self, bound: Sequence[Candidate], reasons: dict[str, str]) -> list[TrialRecord]:
        """Their numbers on the search split, as a search would settle them; they are no trials of the study."""
        baseline = self.bench.baseline("search")
        results = self.bench.policies([c.canonical for c in bound], "search", baseline, self._show("references", bound))
        records = []
        for i, (made, result) in enumerate(zip(bound, results, strict=True)):
            if isinstance(result, Unusable):
                reasons[made.name] = result.reason
                continue
            slacks = search_slacks(self.plan.constraints, result, baseline)
            records.append(
                TrialRecord(
                    number=i,
                    origin="reference",
                    name=made.name,
                    state="complete",
                    policy=made.document,
                    canonical=made.canonical,
                    digest=made.digest,
                    values={label: result.values[label] for label in self.plan.measures},
                    constraints=slacks,
                    cached=True,
                )
            )
        return records

    def _on_holdout(self, ordered: Sequence[TrialRecord], reasons: dict[str, str]) -> list[Finalist]:
        canonicals = [str(record.canonical) for record in ordered]
        if any(not self.bench.is_stored(one, "holdout") for one in canonicals):
            self.log.count_holdout_use()  # before looking: a kill between the two must not hide a use
        baseline = self.bench.baseline("holdout")
        results = self.bench.policies(canonicals, "holdout", baseline, self._show("certify", ordered))
        verdicts = certify(self.plan.constraints, results, baseline, self.plan.confidence)
        finalists = []
        for record, result, verdict in zip(ordered, results, verdicts, strict=True):
            if isinstance(result, Unusable):
                reasons[record.name] = result.reason
            else:
                finalists.append(Finalist(record, result, verdict))
        return finalists

    def _show(self, phase: Literal["references", "certify"], of: Sequence[object]) -> Callable[[int], None]:
        return lambda done: self.observer.update(Progress(phase, done, target=len(of)))

    # ------------------------------------------------------------------------------------------------------ comparing
    def against(self, champion: Policy, found: Policy) -> tuple[Comparison, ...]:
        """A policy and the champion, both on this model and the whole holdout, paired. Empty where the champion cannot
        be measured here."""
        reasons: dict[str, str] = {}
        bound = self._bound([champion, found], reasons)
        if reasons:
            return ()
        baseline = self.bench.baseline("holdout")
        canonicals = [one.canonical for one in bound]
        results = self.bench.policies(canonicals, "holdout", baseline, self._show("certify", bound))
        old, new = results[0], results[-1]
        if isinstance(old, Unusable) or isinstance(new, Unusable):
            return ()
        return self._compared(new, Before(old, {}, same=len(bound) == 1))

    def _compared(self, new: Measurement, old: Before) -> tuple[Comparison, ...]:
        labels = [label for label in self.plan.accuracies if label in new.values]
        return tuple(compare(label, new, old, self.margin, self.plan.confidence) for label in labels)

    def _before(self, champion: Champion, policy: str | None, known: Mapping[str, Estimate]) -> Before:
        """An evaluation of the champion's time: what the store has of it on these records, else its intervals."""
        context = champion.context
        if context is None:
            return Before(None, known)
        now = self.plan.context
        if _without_records(asdict(context)) == _without_records(asdict(now)):
            return Before(None, known, same=True)
        if context.calibration_digest != now.calibration_digest:
            return Before(None, known)
        there = [m for key, request, m in self.log.measured(policy, "holdout") if context.key(request) == key]
        return Before(max(there, key=lambda m: len(m.records), default=None), known)


def baseline_of(champion: Champion) -> dict[str, Estimate]:
    """The unpruned model's numbers when the champion was measured."""
    return {} if champion.front is None else dict(champion.front.baseline)


def _without_records(context: dict[str, object]) -> dict[str, object]:
    """What decides what a policy does on any record."""
    return {key: value for key, value in context.items() if key not in ("calibration_digest", "measure_versions")}
