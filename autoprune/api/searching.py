"""One search from spec to published policy. The only place where driver, executor, store and registry meet."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from autoprune import check
from autoprune.api import state
from autoprune.api.explaining import explain_stages
from autoprune.api.projecting import study_info
from autoprune.api.publishing import saved
from autoprune.api.study import Prepared
from autoprune.document.problems import suggest
from autoprune.errors import AutoPruneError, BadInput, LeaseLost, Located
from autoprune.measures.prefix_cache import foretold
from autoprune.outage import Away, hurried
from autoprune.ports import Executor, Observer, Progress, Reporting, SilentObserver
from autoprune.redact import plain, redacted
from autoprune.spec.models import EXECUTORS

if TYPE_CHECKING:
    from autoprune.check.specs import Checked
    from autoprune.policy.document import Policy
    from autoprune.policy.front import Front
    from autoprune.registry.tracking import MlflowPublisher, NullPublisher
    from autoprune.spec.load import LoadedSpec
    from autoprune.store.store import Store
    from autoprune.store.study_log import StudyLog
    from autoprune.store.values import StudyState


logger = logging.getLogger(__name__)
T = TypeVar("T")

RESUMED_AT_MOST = 20
"""So often a search goes on by itself after a database was away."""


@dataclass(frozen=True)
class SearchResult:
    """What a search came to. `front` has the shape of `autoprune front --json`; `notes` are remarks for people."""

    study_id: str
    front: Mapping[str, Any]
    folder: Path
    notes: tuple[str, ...] = field(default=())

    @property
    def published_or_certified(self) -> bool:
        """Whether there is a policy one may serve."""
        return any(member["selected"] for member in self.front["members"])


def search(
    spec: str | Path,
    *,
    observer: Observer | None = None,
    trials: int | None = None,
    executor: str | None = None,
    address: str | None = None,
    quick: bool = False,
    known: Sequence[Policy] = (),
    tags: Mapping[str, str] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> SearchResult:
    """Search, certify and publish what a spec declares; an interrupted study continues.

    `trials`, `executor` and `address` (of a Ray cluster) stand in for the spec's. `quick`: only a table of
    sensitivities and the schedules that are best by it (the strategy `sensitivity` with `then: none`, a study of its
    own). `known`: policies that are measured first, beside the space's warm starts (a study of its own, too). `tags`:
    of the version that is registered, beside the usual ones. Raises BadInput before anything is written, AutoPruneError
    for a failure on the way, KeyboardInterrupt when interrupted or when `stop()` turns true.
    """
    observer = observer or SilentObserver()
    checked = check.check(spec, quick=quick)
    check_machine(checked, executor, address)
    observer.update(Progress("loading"))
    study = Prepared(checked, tuple(known))
    uri = state.mlflow_uri(checked.loaded)
    if checked.geometry is None and (found := _only_known_now(study)):
        raise BadInput(problems=found)
    study.splits  # noqa: B018  (too few records is bad input: found before anything is written)
    plan = study.plan(trials, None)
    preflight(checked.loaded, uri)
    if (remark := study.holdout_remark()) is not None:
        observer.update(Progress("loading", message=remark))
    observer.update(Progress("loading", message=foretold(study.worker.cache)))

    from autoprune.search.quick import remarks
    from autoprune.store import open_store

    with checked.loaded.at(("output", "store")):
        opened = open_store(state.store_url(checked.loaded))
    with opened as store:
        log = created(store, study)
        with log.lease(f"{socket.gethostname()}:{os.getpid()}"):
            result = _Run(study, log, uri, observer, (executor, address), stop, tags or {}).run(plan)
            added = remarks(plan, checked.loaded.spec.search.strategy, log.trials()) if quick else []
            return replace(result, notes=(*result.notes, *added))


def created(store: Store, study: Prepared) -> StudyLog:
    """The study's log; the study is made if it is not there."""
    loaded = study.checked.loaded
    return store.create_study(
        study.study_id,
        name=loaded.spec.name,
        digest=study.identity,
        spec=plain(loaded.source.data),
        resolved=study.resolved(),
        calibration=study.calibration,
        spec_text=redacted(loaded.source.text),
    )


def _only_known_now(study: Prepared) -> list[Located]:
    """What `check` would have said, had a hub's model been here."""
    return study.checked.misplaced(study.geometry)


def check_machine(checked: Checked, executor: str | None, address: str | None) -> None:
    """What this machine lacks to measure what is asked for, as it is asked. Raises BadInput, at its place if it can."""
    loaded = checked.loaded
    if executor not in (None, *EXECUTORS):
        hint = suggest(executor, EXECUTORS)
        raise BadInput(f"executor {executor!r}: allowed are {', '.join(EXECUTORS)}{hint}", code="not-a-choice")
    state.check_machine(loaded)
    kind = executor or loaded.spec.search.executor.kind
    if kind == "inline" and address is not None:
        raise BadInput(
            f"executor inline runs here, not on the cluster at {address!r}; ray and ray-tune join one", code="conflict"
        )
    if executor is not None:
        if found := check.shared_device(loaded, checked.measures, executor):
            raise BadInput(problems=found)
        state.check_executor(executor)
        return
    with loaded.at(("search", "executor")):
        state.check_executor(loaded.spec.search.executor.kind)


def preflight(loaded: LoadedSpec, uri: str | None) -> None:
    """Raises BadInput, at its place in the spec, for a registry that cannot be reached."""
    if uri is not None:
        from autoprune.registry.tracking import check_reachable

        with loaded.at(("output", "tracking_uri")):
            check_reachable(uri)


def executor_of(study: Prepared, kind: str | None = None, address: str | None = None) -> Executor:
    """The workers that the study's spec asks for; `kind` and `address` (of a Ray cluster) stand in for the spec's."""
    from autoprune.executors.choose import make_executor

    loaded = study.checked.loaded
    wish = loaded.spec.search.executor
    results = wish.ray_tune.results
    with loaded.at(("search", "executor")):
        return make_executor(
            kind or wish.kind,  # type: ignore[arg-type]
            study.worker,
            workers=wish.pool.workers,
            gpus_per_worker=wish.pool.gpus_per_worker,
            cpus_per_worker=wish.pool.cpus_per_worker,
            address=address or wish.pool.address,
            evaluation_timeout=loaded.spec.search.evaluation_timeout,
            results=None if results is None else loaded.path(results),
        )


class _Run:
    """One run of one study, holding its lease."""

    def __init__(
        self,
        study: Prepared,
        log: StudyLog,
        uri: str | None,
        observer: Observer,
        instead: tuple[str | None, str | None],
        stop: Callable[[], bool],
        tags: Mapping[str, str],
    ) -> None:
        """`instead`: executor and address in place of the spec's. `tags`: of the registered version."""
        self.study, self.log, self.observer, self.stop = study, log, observer, stop
        self.instead, self.tags = instead, tags
        self.loaded = study.checked.loaded
        self.publisher = publisher_of(log, uri)
        self.folder = state.study_folder(self.loaded, study.study_id)

    def run(self, plan: Any) -> SearchResult:
        from autoprune.search import driver
        from autoprune.search.explanations.watch import Watch
        from autoprune.search.holdout import Bench

        plan = replace(plan, storage=state.optuna_url(self.loaded))
        watch = Watch(self.observer, self.log, plan)
        workers = executor_of(self.study, *self.instead)

        def searched() -> Front:
            self.log.set_state("running")
            front = driver.run(plan, workers, self.log, self.publisher, watch, self.stop)
            if self.loaded.spec.search.explain:
                front = explain_stages(self.study, plan, Bench(plan, workers, self.log, self.stop), front)
                self.log.save_front(front.to_json())
            return front

        outcome: StudyState | None = "failed"
        took: list[str] = []
        try:
            try:
                front = self._persevere(searched)
                took = _took(workers)
            finally:
                workers.close()
            document = self._persevere(lambda: self._publish(front))
            outcome = "complete"  # only now: a complete study has queued what it publishes
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        except LeaseLost:
            outcome = None  # how the study ends is its new driver's to say
            raise
        finally:
            if outcome is not None:
                self._end(outcome)
        with written(self.folder):
            self._write(document)
        self.observer.update(Progress("done"))
        return SearchResult(self.study.study_id, document, self.folder, (*self._notes(document), *took))

    def _persevere(self, work: Callable[[], T]) -> T:
        """Do it again after a database was away: that leaves what a kill leaves, and every step may be repeated."""
        for _ in range(RESUMED_AT_MOST):
            try:
                return work()
            except Away as error:
                self.observer.update(Progress("loading", message=f"{error}; going on when it is back"))
                self.log.state()  # waits for it, and raises Away if it stays away
        return work()

    def _end(self, outcome: StudyState) -> None:
        """Note how it ended. Where even that cannot be written, the reason why it ended matters more."""
        if outcome == "complete":
            self.log.set_state(outcome)
            return
        try:
            with hurried():
                self.log.set_state(outcome)
        except AutoPruneError as error:
            logger.warning("%s", error)

    # ---------------------------------------------------------------------------------------------------- publishing
    def _publish(self, front: Front) -> dict[str, Any]:
        """Register the selected policy (if the spec says so); -> the front document, with what was published."""
        from autoprune.registry import names

        document = dict(front.to_json())
        chosen = next((m for m in document["members"] if m["selected"]), None)
        name = self.loaded.spec.output.register_as
        if chosen is not None:
            with written(self.folder):
                folder = saved(self.study, front, self.folder)
            if name is not None:
                tags = {names.DIGEST_TAG: chosen["digest"], names.STUDY_TAG: self.study.study_id, **self.tags}
                self.observer.update(Progress("publish"))
                self.log.queue("publish", {"name": name, "folder": str(folder), "tags": tags})
        self.publisher.flush()
        versions = {p.digest: f"models:/{p.name}/{p.version}" for p in self.publisher.published}
        if chosen is not None and chosen["digest"] in versions:
            document["members"] = [{**m, "published": versions.get(m["digest"])} for m in document["members"]]
            self.log.save_front(document)
            self.publisher.flush()
        return document

    # ------------------------------------------------------------------------------------------------------- results
    def _write(self, document: Mapping[str, Any]) -> None:
        (self.folder / "front.json").write_text(json.dumps(document, indent=2, ensure_ascii=False))
        (self.folder / "spec.yaml").write_text(redacted(self.loaded.source.text))
        from autoprune.api.reading import save_curve_figure, save_front_figure

        if document["members"]:
            save_front_figure(document, self.log.trials(), self.folder / "front.png")
        if document["hypervolume"]:
            save_curve_figure(document, self.folder / "hypervolume.png")

    def _notes(self, document: Mapping[str, Any]) -> list[str]:
        notes = [f"study {self.study.study_id} in {self.folder}"]
        for published in dict.fromkeys(self.publisher.published):
            notes.append(f"registered models:/{published.name}@{published.alias} (version {published.version})")
        from autoprune.registry.tracking import NullPublisher

        output = self.loaded.spec.output
        asked = output.register_as is not None or output.tracking_uri is not None
        if not self.publisher.published and (asked or not isinstance(self.publisher, NullPublisher)):
            notes.append(self.publisher.describe())
        if not any(member["selected"] for member in document["members"]):
            notes.append("no policy is certified: nothing was published")
        elif self.loaded.spec.output.register_as is not None and not self.publisher.published:
            notes.append("the selected policy is not registered yet: it waits in the outbox for the same command")
        return notes


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """Files of the study that cannot be written are a message, not a defect: all they hold is in the store."""
    try:
        yield
    except OSError as error:
        raise AutoPruneError(
            f"{folder} cannot be written: {error.strerror}; the same command continues once it can"
        ) from error


def _took(workers: Executor) -> list[str]:
    """What a worker has kept, in a line."""
    said = list(workers.report()) if isinstance(workers, Reporting) else []
    which = f"the first of {len(said)} workers" if len(said) > 1 else "the worker"
    return [f"memory of {which}: {said[0]}"] if said else []


def publisher_of(log: StudyLog, uri: str | None) -> MlflowPublisher | NullPublisher:
    from autoprune.registry.tracking import MlflowPublisher, NullPublisher

    return NullPublisher() if uri is None else MlflowPublisher(log, uri, study_info(log))
