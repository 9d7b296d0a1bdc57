"""How a study looks in MLflow: one parent run, a child run per completed trial, a front, a hypervolume curve.

Every function here may be called again with the same input and leaves the same picture: runs are found again by tag,
a child is only complete once its run has ended, and metrics carry a timestamp that a repetition reproduces.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from autoprune.ports import TrialRecord
from autoprune.registry import names
from autoprune.registry.client import sqlite_path
from autoprune.registry.front_html import front_html
from autoprune.registry.outbox import StudyInfo
from autoprune.search.pareto import hypervolume_curve
from autoprune.spec.goals import Objective

_BATCH = 100  # MLflow's limit on parameters and on tags in one request
_TEXT = 5000  # ... and on the length of a tag or a parameter

T = TypeVar("T")


def experiment(client: Any, uri: str, study: StudyInfo) -> str:
    """The id of the experiment named after the spec; made if it isn't there.

    A SQLite store would put artifacts under the *current folder*; ours go beside the database.
    """
    return experiment_named(client, uri, study.name, study.artifact_root)


def experiment_named(client: Any, uri: str, name: str, root: str | None = None) -> str:
    """The id of an experiment, made if it isn't there, its artifacts under `root`."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    if root is None and (database := sqlite_path(uri)) is not None:
        root = str(database.resolve().parent / "artifacts")
    location = None if root is None else _as_uri(f"{root}/{names.key(name)}")
    return str(client.create_experiment(name, artifact_location=location))


def parent(client: Any, experiment_id: str, study: StudyInfo) -> Any:
    """The study's run, found by its tag, or made and described."""
    query = f"tags.`{names.STUDY_TAG}` = '{study.study_id}' and tags.`{names.KIND_TAG}` = 'study'"
    found = client.search_runs([experiment_id], query, max_results=1)
    if found:
        return found[0]
    run = client.create_run(experiment_id, tags=_parent_tags(study), run_name=study.name)
    describe(client, run.info.run_id, study)
    return run


def describe(client: Any, run_id: str, study: StudyInfo) -> None:
    """The spec as written and as resolved; a later version (say, with more trials) replaces an earlier one."""
    client.log_text(run_id, study.spec_text, "spec.yaml")
    client.log_text(run_id, json.dumps(dict(study.resolved), indent=2, sort_keys=True), "resolved.json")


def _parent_tags(study: StudyInfo) -> dict[str, str]:
    tags = {names.STUDY_TAG: study.study_id, names.KIND_TAG: "study"}
    tags["autoprune.objectives"] = "; ".join(goal.text for goal in study.objectives)[:_TEXT]
    tags["autoprune.constraints"] = "; ".join(goal.text for goal in study.constraints)[:_TEXT]
    tags |= {f"autoprune.digest.{names.key(name)}": value for name, value in study.digests.items()}
    return tags


def children(client: Any, experiment_id: str, parent_id: str) -> dict[int, Any]:
    """The parent's child runs by trial number."""
    found: dict[int, Any] = {}
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], f"tags.`{names.PARENT_TAG}` = '{parent_id}'", max_results=1000, page_token=token
        )
        for run in page:
            if (number := run.data.tags.get(names.TRIAL_TAG)) is not None:
                found[int(number)] = run
        if not (token := page.token):
            return found


def child(client: Any, experiment_id: str, parent_id: str, known: Mapping[int, Any], trial: Mapping[str, Any]) -> Any:
    """The run of one completed trial, ended. `known` are the children that exist; an unfinished one is filled again."""
    number = int(trial["number"])
    run = known.get(number)
    if run is not None and run.info.status == "FINISHED":
        return run
    if run is None:
        run = client.create_run(experiment_id, tags=_child_tags(parent_id, trial), run_name=_child_name(trial))
    run_id = run.info.run_id
    log(client, run, params=trial.get("params", {}), metrics=_child_metrics(trial))
    if trial.get("policy") is not None:
        client.log_text(run_id, json.dumps(trial["policy"], indent=2), "policy.json")
    if trial.get("canonical") is not None:
        client.log_text(run_id, str(trial["canonical"]), "canonical.json")
    client.set_terminated(run_id, status="FINISHED")
    return client.get_run(run_id)


def _child_name(trial: Mapping[str, Any]) -> str:
    label = trial.get("name") or trial.get("origin", "trial")
    return f"{int(trial['number']):04d} {label}"


def _child_tags(parent_id: str, trial: Mapping[str, Any]) -> dict[str, str]:
    return {
        names.PARENT_TAG: parent_id,
        names.KIND_TAG: "trial",
        names.TRIAL_TAG: str(trial["number"]),
        names.STATE_TAG: str(trial["state"]),
        names.DIGEST_TAG: str(trial.get("digest", "")),
        "autoprune.origin": str(trial.get("origin", "trial")),
        "autoprune.cached": str(bool(trial.get("cached", False))).lower(),
        "autoprune.evaluation": str(trial.get("evaluation_key") or ""),
    }


def _child_metrics(trial: Mapping[str, Any]) -> dict[str, float]:
    metrics = {label: float(value) for label, value in trial.get("values", {}).items()}
    metrics |= {f"slack/{text}": float(value) for text, value in trial.get("constraints", {}).items()}
    metrics["seconds"] = float(trial.get("seconds", 0.0))
    return metrics


def log(
    client: Any, run: Any, *, params: Mapping[str, Any], metrics: Mapping[str, float], stamp: int | None = None
) -> None:
    """Parameters and metrics of one run, at step 0. `stamp` is in ms (default: the run's start, so that a repetition
    leaves no second entry)."""
    from mlflow.entities import Metric, Param

    stamp = run.info.start_time if stamp is None else stamp
    numbers = [Metric(names.key(label), value, stamp, 0) for label, value in metrics.items()]
    words = [Param(names.key(name), _plain(value)) for name, value in params.items()]
    for some_metrics, some_params in zip_longest(_chunks(numbers), _chunks(words), fillvalue=()):
        client.log_batch(run.info.run_id, metrics=some_metrics, params=some_params)


def curve_points(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[tuple[int, float]]:
    """(completed evaluations so far, hypervolume), from 1."""
    return list(enumerate(hypervolume_curve(trials, objectives), start=1))


def curve(client: Any, parent_run: Any, points: Sequence[tuple[int, float]]) -> None:
    """Log the points of the hypervolume curve that the parent doesn't have yet (by step; the newest value counts)."""
    from mlflow.entities import Metric

    run_id = parent_run.info.run_id
    history = sorted(client.get_metric_history(run_id, names.HYPERVOLUME), key=lambda metric: metric.timestamp)
    there = {metric.step: metric.value for metric in history}
    stamp = _now()
    new = [Metric(names.HYPERVOLUME, value, stamp, step) for step, value in points if there.get(step) != value]
    for some in _chunks(new):
        client.log_batch(run_id, metrics=some)


def front(
    client: Any,
    parent_run: Any,
    document: Mapping[str, Any],
    pictures: Mapping[str, Any],
    trial_runs: Mapping[int, Any],
) -> None:
    """The front document, as a page too, its figures (file name -> matplotlib figure), the selected member's numbers,
    and each member's on its trial's run; the end."""
    run_id = parent_run.info.run_id
    client.log_text(run_id, json.dumps(dict(document), indent=2), "front.json")
    client.log_text(run_id, front_html(document), "front.html")
    for file, figure in pictures.items():
        client.log_figure(run_id, figure, f"figures/{file}")
    _changed(client, client.get_run(run_id), _front_metrics(document))
    _members(client, document.get("members", []), trial_runs)
    client.set_terminated(run_id, status="FINISHED")


def _members(client: Any, members: Sequence[Mapping[str, Any]], trial_runs: Mapping[int, Any]) -> None:
    """Holdout numbers and the tag `autoprune.front` (its state, or `selected`) on the run of each member, so that
    MLflow's list filters and its comparison draws them; the tag goes where a later front has left a policy out."""
    runs = {run.data.tags.get(names.DIGEST_TAG): run for _, run in sorted(trial_runs.items(), reverse=True)}
    there = {member.get("digest"): member for member in members if member.get("digest") in runs}
    for digest, run in runs.items():
        if digest not in there and names.FRONT_TAG in run.data.tags:
            client.delete_tag(run.info.run_id, names.FRONT_TAG)
    for digest, member in there.items():
        run = runs[digest]
        states = set(member.get("constraints", {}).values())
        worst = next((state for state in ("violated", "undecided") if state in states), "certified")
        client.set_tag(run.info.run_id, names.FRONT_TAG, "selected" if member.get("selected") else worst)
        _changed(client, run, _holdout(member, "holdout/"))


def _changed(client: Any, run: Any, metrics: Mapping[str, float]) -> None:
    """Log what the run does not say already; a later front's numbers replace an earlier one's."""
    known = run.data.metrics
    changed = {label: value for label, value in metrics.items() if known.get(names.key(label)) != value}
    log(client, run, params={}, metrics=changed, stamp=_now())


def _holdout(member: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """A member's estimates with their limits, by metric name."""
    parts = {"": "value", ".low": "low", ".high": "high"}
    return {
        f"{prefix}{label}{suffix}": float(interval[part])
        for label, interval in member.get("holdout", {}).items()
        for suffix, part in parts.items()
        if interval.get(part) is not None
    }


def _front_metrics(document: Mapping[str, Any]) -> dict[str, float]:
    members = document.get("members", [])
    metrics = {"front/members": float(len(members))}
    metrics |= {f"trials/{state}": float(count) for state, count in document.get("trials", {}).items()}
    for member in members:
        if not member.get("selected"):
            continue
        if member.get("budget") is not None:
            metrics["selected/budget"] = float(member["budget"])
        metrics |= _holdout(member, "selected/")
    return metrics


def _now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text[:_TEXT]


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))


def _as_uri(root: str) -> str:
    return root if "://" in root else Path(root).resolve().as_uri()
