"""The sampler's memory: one Optuna study, opened, repaired, asked and told. Nothing else does any of that.

Optuna 5 facts this relies on: constraints are written once per trial and a trial without them counts as feasible, so
all are set before COMPLETE is told; heartbeats and retry callbacks do not work with ask/tell, so trials left RUNNING by
a dead driver are failed and enqueued again here; `enqueue_trial` checks nothing, so values are checked before.

User attributes of a trial: `phase`, `key` and `digest` (set before the evaluation is dispatched), `reference` (a
reference's digest), `climbs` (it begins at the first rung), `retry_of` (a trial of a dead driver), `outcome` (set
before the trial is told). A failed trial without `outcome` was abandoned, not evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.search import sampler
from autoprune.search.sampler_storage import storage_of
from autoprune.search.settle import Fate

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

    from autoprune.ports import TrialRecord
    from autoprune.search.plan import StudyPlan
    from autoprune.search.strategy import SamplerKind

UNREACHABLE = "budget reachable"
RANDOM_AFTER = 5  # proposals in a row that needed no evaluation, before the sampler is given a random push


@dataclass(frozen=True)
class Asked:
    """One proposal. `values` are the space's, `stored` the same as Optuna keeps them."""

    trial: Trial
    number: int
    values: Mapping[str, Any]
    reference: str | None
    phase: str = ""
    climbs: bool = False
    arm: str = ""


@dataclass(frozen=True)
class Told:
    """A finished trial of the sampler's memory that the log has not settled. `values` are the space's."""

    number: int
    values: Mapping[str, Any]
    fate: Fate
    digest: str
    key: str
    reference: str | None
    phase: str
    limit: int | None
    arm: str = ""


class SamplerMemory:
    """Open with `SamplerMemory(plan, records, arm)`; `records` are the settled trials of the arm."""

    def __init__(self, plan: StudyPlan, records: Sequence[TrialRecord], arm: str = "") -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.arm = arm
        self._seed = f"{plan.seed}/{arm}" if arm else str(plan.seed)
        self._dimensions = sampler.Dimensions(plan.arms[arm].parameters)
        self._distributions = self._dimensions.distributions()
        self._trials_planned = plan.trials // len(plan.arms)
        self._startup = sampler.startup_trials(self._trials_planned)
        self._evolution = sampler.evolution(len(plan.objectives), self._trials_planned)
        self._constraints = tuple(dict.fromkeys(c.text for c in plan.constraints))
        self._objectives = tuple(o.label for o in plan.objectives)
        self.study: Study = optuna.create_study(
            storage=storage_of(plan.storage),
            study_name=f"{plan.study_id}/{arm}" if arm else plan.study_id,
            directions=[o.direction for o in plan.objectives],
            sampler=sampler.build("random", self._seed, 0, self._startup),
            load_if_exists=True,
        )
        if not self._trials():
            self._replay(records)
        self._proposals = self._waiting = 0
        self._recount()
        self._dispatched = {name for name in self.study.user_attrs if name.startswith("dispatched:")}

    # ------------------------------------------------------------------------------------------------------- opening
    def _replay(self, records: Sequence[TrialRecord]) -> None:
        """Teach an empty memory what the log knows (the sampler's database was in memory, or is gone)."""
        complete = 0
        for record in records:
            stored = self._dimensions.to_optuna(record.params) if record.sampler_number is not None else None
            if stored is not None:
                self._add(record, stored, complete // sampler.population(self._trials_planned))
                complete += record.state == "complete"

    def _add(self, record: TrialRecord, stored: dict[str, Any], generation: int) -> None:
        from optuna.trial import TrialState, create_trial

        pruned = TrialState.PRUNED
        states = dict.fromkeys(("infeasible", "partial", "screened"), pruned)
        states |= {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL}
        fate = Fate(record.state, record.values, record.constraints, record.reason)
        attrs: dict[str, Any] = {"digest": record.digest, "key": record.evaluation_key or "", "record": record.number}
        attrs |= {"outcome": _outcome(fate, record.limit), "phase": record.phase}
        if record.origin == "reference":
            attrs["reference"] = record.digest
        failed = record.state == "failed"
        self.study.add_trial(
            create_trial(
                state=states[record.state],
                values=[record.values[o] for o in self._objectives] if record.state == "complete" else None,
                params=stored,
                distributions=self._distributions,
                user_attrs=attrs,
                system_attrs={sampler.generation_key(self._evolution): generation},
                constraints=None if failed else self._all_constraints(record.constraints),
            )
        )

    def release(self) -> None:
        """Fail every RUNNING trial and enqueue its values again, in order. Safe to repeat after a kill anywhere."""
        from optuna.trial import TrialState

        trials = self._trials()
        retried = {t.user_attrs.get("retry_of") for t in trials}
        for trial in trials:
            if trial.state != TrialState.RUNNING and not self._is_abandoned(trial):
                continue
            # Without a digest it was never offered: the next proposal takes its place and its seed.
            if trial.number not in retried and "digest" in trial.user_attrs:
                self._enqueue_again(trial)
            if trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
        self._recount()

    def rerun(self, number: int) -> None:
        """Ask again for a told trial whose measurement is gone (once)."""
        trials = self._trials()
        if not any(t.user_attrs.get("retry_of") == number for t in trials):
            self._enqueue_again(trials[number])
            self._recount()

    def _enqueue_again(self, trial: FrozenTrial) -> None:
        attrs: dict[str, Any] = {"retry_of": trial.number}
        attrs |= {name: trial.user_attrs[name] for name in ("reference", "phase", "climbs") if name in trial.user_attrs}
        self.study.enqueue_trial(trial.params, user_attrs=attrs)

    def unsettled(self, records: Sequence[TrialRecord]) -> list[Told]:
        """Trials told before the driver died and not settled in the log."""
        settled = {(r.sampler_number, r.digest) for r in records}
        trials = self._trials()
        retried = {t.user_attrs.get("retry_of") for t in trials}
        told = []
        for trial in trials:
            attrs = trial.user_attrs
            known = trial.number in retried or "record" in attrs or (trial.number, attrs.get("digest", "")) in settled
            if not trial.state.is_finished() or "outcome" not in attrs or known:
                continue
            told.append(
                Told(
                    number=trial.number,
                    values=self._dimensions.from_optuna(trial.params),
                    fate=_fate(attrs["outcome"]),
                    digest=attrs.get("digest", ""),
                    key=attrs.get("key", ""),
                    reference=attrs.get("reference"),
                    phase=attrs.get("phase", ""),
                    limit=attrs["outcome"].get("limit"),
                    arm=self.arm,
                )
            )
        return told

    # -------------------------------------------------------------------------------------------------------- asking
    def has_waiting(self) -> bool:
        """Whether an enqueued trial comes before anything the sampler would propose."""
        return self._waiting > 0

    def _recount(self) -> None:
        """Proposals that count (abandoned ones do not), and those that wait. Kept up by hand from here on: looking
        through all trials at every proposal would make a long study slow."""
        from optuna.trial import TrialState

        trials = self._trials()
        self._proposals = sum(1 for t in trials if not self._is_abandoned(t))
        self._waiting = sum(1 for t in trials if t.state == TrialState.WAITING)

    def enqueue(self, values: Mapping[str, Any], reference: str | None = None) -> None:
        """Make these (checked) values the next proposal; `reference` is the digest of the reference that they are."""
        stored = self._dimensions.to_optuna(values)
        if stored is None:
            raise ValueError("enqueued values must lie in the space")
        self.study.enqueue_trial(stored, user_attrs=None if reference is None else {"reference": reference})
        self._proposals, self._waiting = self._proposals + 1, self._waiting + 1

    def covers(self, values: Mapping[str, Any]) -> bool:
        """Whether the space contains these values."""
        return self._dimensions.to_optuna(values) is not None

    def ask(self, kind: SamplerKind, fruitless: int = 0) -> Asked:
        """The next proposal. After several in a row that needed no evaluation, a random one: samplers that do not learn
        from such points would repeat them for ever."""
        proposals, wanted = self._proposals, kind
        if self.has_waiting() or fruitless >= RANDOM_AFTER:
            kind = "random"  # where one waits, its values are given
        planned = self._trials_planned
        name = sampler.choose(kind, len(self._distributions), planned, len(self._objectives))
        self.study.sampler = sampler.build(name, self._seed, proposals, self._startup, sampler.population(planned))
        trial = self.study.ask(self._distributions)
        if self._waiting or wanted == "evolutionary":
            self._join(trial.number)
        if self._waiting:
            self._waiting -= 1
        else:
            self._proposals += 1
        given = trial.user_attrs
        values = self._dimensions.from_optuna(trial.params)
        return Asked(
            trial,
            trial.number,
            values,
            given.get("reference"),
            given.get("phase", ""),
            given.get("climbs", False),
            self.arm,
        )

    def _join(self, number: int) -> None:
        """Give a proposal its place in the generations of an evolutionary search, whoever made it: that reads nothing
        else, so warm starts and random points would never be anybody's parents."""
        self._evolution.get_trial_generation(self.study, self._trials()[number])

    @staticmethod
    def _is_abandoned(trial: FrozenTrial) -> bool:
        from optuna.trial import TrialState

        return trial.state == TrialState.FAIL and "outcome" not in trial.user_attrs

    def identify(self, asked: Asked, phase: str, digest: str, key: str, climbs: bool = False) -> None:
        """Write down which policy, which evaluation and whose a proposal is, before anything is done about it."""
        asked.trial.set_user_attr("phase", phase)
        if climbs:
            asked.trial.set_user_attr("climbs", True)
        asked.trial.set_user_attr("key", key)
        asked.trial.set_user_attr("digest", digest)

    def mark_dispatched(self, key: str) -> None:
        """Write down that this study pays for an evaluation (a stored one that it did not pay for is a cache hit)."""
        name = f"dispatched:{key}"
        if name not in self._dispatched:
            self.study.set_user_attr(name, True)
            self._dispatched.add(name)

    def was_dispatched(self, key: str) -> bool:
        return f"dispatched:{key}" in self._dispatched

    # ------------------------------------------------------------------------------------------------------- telling
    def tell(self, asked: Asked, fate: Fate, limit: int | None = None) -> None:
        """The one place where a proposal's fate is told. Complete needs every objective and every constraint; numbers
        of part of the records are no values of an objective."""
        from optuna.trial import TrialState as Optuna

        asked.trial.set_user_attr("outcome", _outcome(fate, limit))
        if fate.state == "failed":
            self.study.tell(asked.trial, state=Optuna.FAIL)
            return
        for name, slack in self._all_constraints(fate.slacks).items():
            asked.trial.set_constraint(name, slack)
        if fate.state in ("infeasible", "partial", "screened"):
            self.study.tell(asked.trial, state=Optuna.PRUNED)
            return
        missing = [c for c in self._constraints if c not in fate.slacks]
        if missing:
            raise ValueError(f"constraints not set: {missing}")
        self.study.tell(asked.trial, [fate.values[o] for o in self._objectives])

    def _all_constraints(self, slacks: Mapping[str, float]) -> dict[str, float]:
        """Every declared constraint (0 = not known to be violated), and what else is violated."""
        return {name: 0.0 for name in self._constraints} | dict(slacks)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)


def _outcome(fate: Fate, limit: int | None) -> dict[str, Any]:
    known = {"values": dict(fate.values), "slacks": dict(fate.slacks)}
    return {"state": fate.state, **known, "reason": fate.reason, "limit": limit}


def _fate(outcome: Mapping[str, Any]) -> Fate:
    return Fate(outcome["state"], outcome["values"], outcome["slacks"], outcome["reason"])
