"""The outbox's way to MLflow. Whatever MLflow does, the search goes on: what cannot be published stays in the store."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError, BadInput
from autoprune.registry import client as mlflow_client
from autoprune.registry import names, policies, projection
from autoprune.registry.client import check_reachable as check_reachable
from autoprune.registry.outbox import Outbox, OutboxRow, StudyInfo
from autoprune.registry.pictures import pictures

logger = logging.getLogger("autoprune.registry")


@dataclass(frozen=True)
class Published:
    """A policy version that this publisher registered."""

    name: str
    version: int
    digest: str
    alias: str


class BadRowError(AutoPruneError):
    """A row whose payload can't be published, now or later."""


class NullPublisher:
    """Without MLflow: the outbox stays filled, for `autoprune sync` to publish once MLflow is there."""

    def __init__(self, reason: str = "MLflow is not installed") -> None:
        self.reason = reason
        self.published: tuple[Published, ...] = ()

    def flush(self) -> None:
        """Leave every row where it is."""

    def describe(self) -> str:
        """One line for the user."""
        return f"{self.reason}: results stay in the store and wait in its outbox (pip install 'autoprune[mlflow]')"


class MlflowPublisher:
    """Projects a study's outbox into MLflow (a `ports.Publisher`).

    Nothing is contacted before the first `flush`.
    """

    def __init__(self, outbox: Outbox, tracking_uri: str, study: StudyInfo) -> None:
        self._outbox = outbox
        self._uri = tracking_uri
        self._study = study
        self._client: Any = None
        self._experiment: str | None = None
        self._parent: Any = None
        self._children: dict[int, Any] = {}
        self._away = False
        self._refused: set[int] = set()
        self.published: tuple[Published, ...] = ()
        mlflow_client.require()

    def describe(self) -> str:
        """One line for the user."""
        return f"MLflow: {mlflow_client.shown(self._uri)}, experiment {self._study.name!r}"

    def flush(self) -> None:
        """Publish what waits, oldest first. On an outage the rest waits; a row that is refused is stepped over."""
        rows = self._outbox.outbox()
        if not rows:
            return
        if (reason := mlflow_client.unreachable(self._uri)) is not None:
            self._outage(rows[0], reason)
            return
        trials = 0
        for row in rows:
            self._outbox.hold()  # two drivers would make two runs of one trial
            try:
                self._publish(row)
            except Exception as error:
                if not _expected(error):
                    raise
                if not _hopeless(error):
                    self._outage(row, mlflow_client.one_line(error))
                    return
                self._refuse(row, mlflow_client.one_line(error))
            else:
                self._outbox.mark_published(row.id)
                trials += row.kind == "trial"
        self._back()
        if trials:
            self._draw_curve()

    # ------------------------------------------------------------------------------------------------------- one row
    def _publish(self, row: OutboxRow) -> None:
        payload = _payload(row)
        publish = {
            "study": self._publish_study,
            "trial": self._publish_trial,
            "front": self._publish_front,
            "publish": self._publish_policy,
        }.get(row.kind)
        if publish is None:
            raise BadRowError(f"outbox row {row.id} is of the unknown kind {row.kind!r}")
        try:
            publish(payload)
        except (KeyError, TypeError, ValueError) as error:
            if mlflow_client.is_failure(error) and type(error).__module__ != "builtins":
                raise  # a library's own, which happens to be a ValueError as well
            raise BadRowError(f"outbox row {row.id} ({row.kind}) is not as expected: {error!r}") from error

    def _publish_study(self, payload: Mapping[str, Any]) -> None:
        run = self._run()
        projection.describe(self._client, run.info.run_id, self._study)
        if run.info.status != "RUNNING":  # a study that goes on after its end
            self._client.update_run(run.info.run_id, status="RUNNING")

    def _publish_trial(self, trial: Mapping[str, Any]) -> None:
        if trial["state"] != "complete":
            return  # counted in the front's trials; a run would have nothing to show
        parent = self._run()
        run = projection.child(self._client, self._experiment_id(), parent.info.run_id, self._children, trial)
        self._children[int(trial["number"])] = run

    def _publish_front(self, document: Mapping[str, Any]) -> None:
        run = self._run()
        trials = self._outbox.trials()
        points = projection.curve_points(trials, self._study.objectives)
        projection.curve(self._client, run, points)
        drawn = pictures(document, trials, points, self._study.resolved.get("tokens"))
        children = projection.children(self._client, self._experiment_id(), run.info.run_id)
        projection.front(self._client, run, document, drawn, children)

    def _publish_policy(self, payload: Mapping[str, Any]) -> None:
        name = payload.get("name") or self._study.registered_model
        if name is None:
            raise BadRowError("a policy waits to be registered, but the study names no registered model")
        folder = Path(payload["folder"])
        if not folder.is_dir():
            raise BadRowError(f"the policy to be registered is gone: {folder}")
        tags = {names.STUDY_TAG: self._study.study_id, **payload.get("tags", {})}
        alias = payload.get("alias", names.CANDIDATE)
        run_id = self._run().info.run_id
        version = policies.register(self._uri, name, folder, run_id=run_id, tags=tags, alias=alias)
        self.published += (Published(name, version, tags[names.DIGEST_TAG], alias),)

    def _draw_curve(self) -> None:
        """The curve follows the trials. If it fails here the front row, or the next trial, draws the missing points."""
        settled = self._outbox.trials()
        if not any(trial.origin == "trial" for trial in settled):
            return  # the curve's reference point is fixed only when all references are in
        points = projection.curve_points(settled, self._study.objectives)
        try:
            run = self._run()  # first: it is what connects the client
            projection.curve(self._client, run, points)
        except Exception as error:
            if not _expected(error):
                raise
            logger.warning("the hypervolume curve could not be published: %s", mlflow_client.one_line(error))

    # --------------------------------------------------------------------------------------------------------- lookups
    def _experiment_id(self) -> str:
        if self._experiment is None:
            self._experiment = projection.experiment(self._client, self._uri, self._study)
        return self._experiment

    def _run(self) -> Any:
        if self._client is None:
            self._client = mlflow_client.connect(self._uri)
        if self._parent is None:
            run = projection.parent(self._client, self._experiment_id(), self._study)
            self._children = projection.children(self._client, self._experiment_id(), run.info.run_id)
            self._parent = run
        return self._parent

    # -------------------------------------------------------------------------------------------------------- failures
    def _outage(self, row: OutboxRow, reason: str) -> None:
        self._outbox.mark_failed_attempt(row.id, reason)
        self._client = self._experiment = self._parent = None  # it may be another server when it is back
        if not self._away:
            logger.warning(
                "MLflow at %s is away (%s); the search goes on, and its results wait in the outbox",
                mlflow_client.shown(self._uri),
                reason,
            )
        self._away = True

    def _back(self) -> None:
        if self._away:
            logger.info("MLflow at %s is back; the outbox was published", mlflow_client.shown(self._uri))
        self._away = False

    def _refuse(self, row: OutboxRow, reason: str) -> None:
        self._outbox.mark_failed_attempt(row.id, reason)
        if row.id not in self._refused:
            logger.warning("MLflow refuses outbox row %d (%s): %s", row.id, row.kind, reason)
        self._refused.add(row.id)


def _expected(error: BaseException) -> bool:
    """Whether this is the world's doing (an outage, a bad row) rather than a mistake in our code."""
    return isinstance(error, AutoPruneError) or mlflow_client.is_failure(error)


def _hopeless(error: BaseException) -> bool:
    """Whether waiting won't help: the row itself is at fault, not the service."""
    if isinstance(error, BadRowError | BadInput):
        return True
    cause = error.__cause__ if isinstance(error, AutoPruneError) else error
    return cause is not None and mlflow_client.is_final(cause)


def _payload(row: OutboxRow) -> Mapping[str, Any]:
    try:
        content = json.loads(row.payload) if isinstance(row.payload, str) else row.payload
    except ValueError as error:
        raise BadRowError(f"outbox row {row.id} ({row.kind}) is not JSON: {error}") from error
    if not isinstance(content, Mapping):
        raise BadRowError(f"outbox row {row.id} ({row.kind}) is not a mapping")
    return content
