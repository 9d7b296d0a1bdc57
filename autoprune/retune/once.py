"""`autoprune retune`: look whether the model has changed; measure the champion again; re-certify it, or search anew."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from autoprune import check
from autoprune.api import policies as served
from autoprune.api import searching, state
from autoprune.api.proposals import PARTS
from autoprune.api.publishing import saved
from autoprune.api.study import Prepared
from autoprune.errors import AutoPruneError, BadInput
from autoprune.policy.document import Policy
from autoprune.policy.front import Front
from autoprune.ports import Observer, Progress, SilentObserver
from autoprune.registry import names, policies
from autoprune.retune import deciding
from autoprune.retune.champion import Champion
from autoprune.retune.comparing import Comparison
from autoprune.retune.measuring import Remeasuring
from autoprune.retune.triggers import Facts, Trigger, calibration_of, commit_of, triggers
from autoprune.search.holdout import Bench
from autoprune.spec.retuning import Margin, RetuneSpec

if TYPE_CHECKING:
    from pathlib import Path

    from autoprune.check import Checked
    from autoprune.retune.deciding import Decision
    from autoprune.store.store import Store
    from autoprune.store.study_log import StudyLog
    from autoprune.store.values import StudyState

Result = Literal["current", "recertified", "promoted", "kept"]
WARN_AFTER = 10
BY = "autoprune retune"


@dataclass(frozen=True)
class Retuned:
    """What became of it. `champion` and `before` are versions; `candidate`: what a search registered without promoting
    it. `comparisons` by what was compared: `model`, `old self`, `champion`."""

    result: Result
    name: str
    before: int
    champion: int
    triggers: tuple[Trigger, ...]
    reason: str
    comparisons: Mapping[str, tuple[Comparison, ...]]
    study: str | None = None
    candidate: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether what is served is certified for the model as it is (exit code 0)."""
        return self.result != "kept"

    def to_json(self) -> dict[str, Any]:
        return {
            "result": self.result,
            "name": self.name,
            "before": self.before,
            "champion": self.champion,
            "candidate": self.candidate,
            "study": self.study,
            "triggers": [{"kind": one.kind, "text": one.text} for one in self.triggers],
            "reason": self.reason,
            "comparisons": {what: [one.to_json() for one in some] for what, some in self.comparisons.items()},
            "notes": list(self.notes),
        }


def retune(
    spec: str | Path,
    *,
    observer: Observer | None = None,
    executor: str | None = None,
    address: str | None = None,
    force: bool = False,
    now: datetime | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Retuned:
    """Do once what the spec's `retune` section says, and nothing where nothing has changed (unless `force`).

    Every step may be cut short and done again: measurements are in the store, versions are known by their content.
    Raises BadInput for a spec that cannot be run or has no champion, AutoPruneError for a failure on the way,
    KeyboardInterrupt when interrupted or when `stop()` turns true.
    """
    observer = observer or SilentObserver()
    checked = check.check(spec)
    searching.check_machine(checked, executor, address)
    name, uri = _registered(checked)
    searching.preflight(checked.loaded, uri)
    observer.update(Progress("loading"))
    champion = Champion.of(name, uri)
    found = _changed(checked, champion, now or datetime.now(UTC))
    if force and not found:
        found = [Trigger("asked", "asked for")]
    if not found:
        reason = f"nothing has changed since version {champion.version} was measured"
        return Retuned("current", name, champion.version, champion.version, (), reason, {})
    for trigger in found:
        observer.update(Progress("loading", message=trigger.text))
    return _Retuning(spec, checked, uri, champion, tuple(found), observer, (executor, address), stop).run()


def _registered(checked: Checked) -> tuple[str, str]:
    """The registered policy and where MLflow is."""
    loaded = checked.loaded
    if (name := loaded.spec.output.register_as) is None:
        message = "retune needs a registered policy: output.register names it"
        raise BadInput(problems=[loaded.source.problem(("output",), "missing-key", message)])
    if (uri := state.mlflow_uri(loaded)) is None:
        missing = "retune needs MLflow, where policies are registered (pip install 'autoprune[mlflow]')"
        raise BadInput(missing, code="not-installed")
    return name, uri


def settings(checked: Checked) -> RetuneSpec:
    """The spec's `retune` section, or what holds without one."""
    return checked.loaded.spec.retune or RetuneSpec()


def _changed(checked: Checked, champion: Champion, now: datetime) -> list[Trigger]:
    study, wish = Prepared(checked), settings(checked)
    here = Facts(study.fingerprint, calibration_of({"environment": vars(study.context)}), commit_of(study.folder))
    return triggers(
        champion.facts,
        here,
        when=wish.when,
        moved_by_others=champion.moved_by_others,
        age=(now - champion.created).total_seconds(),
        max_age=wish.max_age,
    )


class _Retuning:
    """One champion on a changed model."""

    def __init__(
        self,
        spec: str | Path,
        checked: Checked,
        uri: str,
        champion: Champion,
        found: tuple[Trigger, ...],
        observer: Observer,
        instead: tuple[str | None, str | None],
        stop: Callable[[], bool],
    ) -> None:
        """`instead`: executor and address in place of the spec's."""
        self.spec, self.checked, self.uri, self.champion, self.found = spec, checked, uri, champion, found
        self.observer, self.instead, self.stop = observer, instead, stop
        self.known = tuple(_warm(champion, checked.loaded.spec.search.trials))
        self.study = Prepared(checked, self.known)
        self.comparisons: dict[str, tuple[Comparison, ...]] = {}
        self.notes: list[str] = []

    def run(self) -> Retuned:
        self.study.splits  # noqa: B018  (too few records is bad input: found before anything is written)
        with self._at_work() as (log, means):
            again = means.remeasure(self.champion)
            self.comparisons |= {"model": again.model, "old self": again.old_self}
            decision = deciding.after_measuring(again.standing, again.old_self, again.model, again.why_not)
            self._say(decision)
            front = None if again.front is None else self._recorded(log, again.front, decision)
            if decision.step == "recertify" and front is not None:
                return self._recertify(log, front, decision)
            self._looked(log)
        if decision.step == "keep":
            return self._kept(decision, None)
        return self._search(decision)

    # ------------------------------------------------------------------------------------------------- its three ends
    def _recertify(self, log: StudyLog, front: Front, decision: Decision) -> Retuned:
        """The same policy and front with their new numbers: a version of its own, which is served from now on."""
        publisher = searching.publisher_of(log, self.uri)
        folder = state.study_folder(self.checked.loaded, self.study.study_id)
        with searching.written(folder):
            there = saved(self.study, front, folder, {"retune": self._record(decision)})
        chosen = front.selected
        tags = self._tags(names.RECERTIFIED, decision) | {
            names.DIGEST_TAG: chosen.digest if chosen is not None else "",
            names.STUDY_TAG: self.study.study_id,
        }
        self.observer.update(Progress("publish"))
        log.queue("publish", {"name": self.champion.name, "folder": str(there), "tags": tags})
        publisher.flush()
        self._looked(log)
        made = [one for one in publisher.published if one.digest == tags[names.DIGEST_TAG]]
        if not made:
            raise AutoPruneError(
                "the re-certified version could not be registered: it waits in the outbox; the same command, or "
                "`autoprune sync`, goes on when MLflow is back"
            )
        return self._promoted("recertified", made[-1].version, decision)

    def _search(self, why: Decision) -> Retuned:
        """Search from the old front; what is found is served if it is certified and as good as the champion."""
        result = searching.search(
            self.spec,
            observer=self.observer,
            executor=self.instead[0],
            address=self.instead[1],
            known=self.known,
            tags=self._tags(names.RETUNED, why),
            stop=self.stop,
        )
        front = Front.from_json(result.front)
        chosen = front.selected
        with self._at_work() as (log, means):
            if chosen is not None:
                found = Policy.parse(chosen.policy or {}, PARTS)
                self.comparisons["champion"] = means.against(self.champion.loaded.policy, found)
            decision = deciding.after_searching(
                None if chosen is None else chosen.name, self.comparisons.get("champion", ())
            )
            self._say(decision)
            self._recorded(log, front, decision, why)
            searching.publisher_of(log, self.uri).flush()
            self._looked(log)
        if chosen is None:
            return self._kept(decision, None)
        if chosen.published is None:
            raise AutoPruneError("what was found could not be registered: the same command goes on when MLflow is back")
        version = int(chosen.published.rpartition("/")[2])
        if decision.step == "keep":
            return self._kept(decision, version)
        return self._promoted("promoted", version, decision)

    def _promoted(self, result: Result, version: int, decision: Decision) -> Retuned:
        self._note(version, decision)
        served.promote(f"models:/{self.champion.name}/{version}", self.uri, by=BY)
        return self._ended(result, version, decision, None)

    def _kept(self, decision: Decision, candidate: int | None) -> Retuned:
        self._note(candidate or self.champion.version, decision)
        return self._ended("kept", self.champion.version, decision, candidate)

    def _ended(self, result: Result, now: int, decision: Decision, candidate: int | None) -> Retuned:
        return Retuned(
            result,
            self.champion.name,
            self.champion.version,
            now,
            self.found,
            decision.reason,
            self.comparisons,
            self.study.study_id,
            candidate,
            tuple(self.notes),
        )

    # -------------------------------------------------------------------------------------------------- what is written
    def _recorded(self, log: StudyLog, front: Front, *decisions: Decision) -> Front:
        """The front with what was decided on it, in the store."""
        lines = (*(t.text for t in self.found), *(d.reason for d in reversed(decisions)))
        told = {**front.explanations, "retune": self._record(decisions[0])}
        front = replace(
            front,
            explanation=(*front.explanation, *(f"retune: {line}" for line in lines)),
            explanations=told,
            holdout_uses=log.times_looked(),
        )
        log.save_front(front.to_json())
        return front

    def _record(self, decision: Decision) -> dict[str, Any]:
        """A decision with all it stands on. No time of day: the same decision is the same version."""
        return {
            "parent": self.champion.version,
            "triggers": [one.kind for one in self.found],
            "decision": decision.step,
            "reason": decision.reason,
            "comparisons": {what: [one.to_json() for one in some] for what, some in self.comparisons.items()},
        }

    def _tags(self, cause: str, decision: Decision) -> dict[str, str]:
        return {
            names.CAUSE_TAG: cause,
            names.LINEAGE_TAG: str(self.champion.version),
            f"{names.RETUNE_TAG}.why": f"{'; '.join(t.text for t in self.found)}; {decision.reason}",
        }

    def _note(self, version: int, decision: Decision) -> None:
        """On the version that was judged: the new one, or the champion where there is none."""
        value = json.dumps({"decision": decision.step, "reason": decision.reason, "study": self.study.study_id})
        policies.annotate(self.uri, self.champion.name, version, names.RETUNE_TAG, value)

    def _say(self, decision: Decision) -> None:
        self.observer.update(Progress("certify", message=f"{decision.step}: {decision.reason}"))

    def _looked(self, log: StudyLog) -> None:
        if (times := log.times_looked()) > WARN_AFTER:
            self.notes = [
                f"warning: this holdout was looked at {times} times; what it certifies gets less sure with every look: "
                "take records that nobody has looked at (calibration.seed, or new ones)"
            ]

    # ----------------------------------------------------------------------------------------------------------- means
    @contextmanager
    def _at_work(self) -> Iterator[tuple[StudyLog, Remeasuring]]:
        """The study's log, under its lease, and workers to measure with."""
        from autoprune.store import open_store

        with self.checked.loaded.at(("output", "store")):
            store: Store = open_store(state.store_url(self.checked.loaded))
        with store:
            log = searching.created(store, self.study)
            with log.lease(f"{socket.gethostname()}:{os.getpid()} (retune)"):
                log.set_state("running")
                plan = self.study.plan(None, None)
                workers = searching.executor_of(self.study, *self.instead)
                outcome: StudyState = "failed"
                try:
                    bench = Bench(plan, workers, log, self.stop)
                    margin = Margin.read(settings(self.checked).margin)
                    yield log, Remeasuring(self.study, plan, bench, log, margin, self.observer)
                    outcome = "complete"
                except KeyboardInterrupt:
                    outcome = "interrupted"
                    raise
                finally:
                    workers.close()
                    with suppress(AutoPruneError):  # why it ended matters more than that it cannot be noted
                        log.set_state(outcome)


def _warm(champion: Champion, trials: int) -> Sequence[Policy]:
    """The champion and as many of its front, evenly spread over it, as half of the trials pay for."""
    own, *others = champion.policies()
    room = max(0, trials // 2 - 1)
    if len(others) > room:
        others = [others[i * len(others) // room] for i in range(room)]
    return [own, *others]
