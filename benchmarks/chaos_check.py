"""What a finished study left in the store, in the sampler's memory and in MLflow, and what is wrong with that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

LOST, DUPLICATED, ZOMBIE, WRONG = "lost", "duplicated", "zombie", "wrong_front"
Faults = dict[str, list[str]]


def look(spec: Path) -> dict[str, Any]:
    """`result`: what must not depend on how often the study died. `faults`: what the records themselves show."""
    from autoprune.api import state
    from autoprune.spec.load import load
    from autoprune.store import open_store

    loaded = load(spec)
    faults: Faults = {LOST: [], DUPLICATED: [], ZOMBIE: []}
    with open_store(state.store_url(loaded)) as store:
        log = store.study(store.resolve(loaded.spec.name))
        trials, front = log.trials(), log.front() or {}
        _records(trials, log, faults)
        faults[LOST] += [f"outbox row {row.id} ({row.kind}): {row.last_error}" for row in log.outbox()]
        if log.state() != "complete":
            faults[ZOMBIE].append(f"the study is {log.state()}")
        if holders := _leases(store):
            faults[ZOMBIE].append(f"leases of {holders}")
    _sampler(state.optuna_url(loaded), faults)
    _mlflow(str(state.mlflow_uri(loaded)), loaded.spec.name, trials, front, faults)
    settled = [[t.number, t.origin, t.state, t.digest, dict(t.values), dict(t.constraints), t.cached] for t in trials]
    return {"result": {"front": _essence(front), "trials": settled}, "faults": faults}


def wrong(found: Mapping[str, Any], undisturbed: Mapping[str, Any]) -> Faults:
    """All faults of a study, the differences from the undisturbed one included."""
    faults = {kind: list(said) for kind, said in found["faults"].items()}
    differences = [
        f"{key}: {found['result'][key]!r} instead of {undisturbed['result'][key]!r}"
        for key in undisturbed["result"]
        if found["result"][key] != undisturbed["result"][key]
    ]
    return {**faults, WRONG: differences}


def _essence(front: Mapping[str, Any]) -> dict[str, Any]:
    """The front without its study's name and the version's number."""
    members = [
        {key: value for key, value in member.items() if key != "published"} | {"published": bool(member["published"])}
        for member in front.get("members", ())
    ]
    kept = ("baseline", "trials", "hypervolume", "explanation", "explanations", "agreement")
    return {"members": members, **{key: front.get(key) for key in kept}}


def _records(trials: list[Any], log: Any, faults: Faults) -> None:
    if [t.number for t in trials] != list(range(len(trials))):
        faults[LOST].append(f"the trials' numbers are {[t.number for t in trials]}")
    for trial in trials:
        if trial.evaluation_key and trial.state == "complete" and log.find(trial.evaluation_key) is None:
            faults[LOST].append(f"the evaluation of trial {trial.number}")
    fresh = [t.digest for t in trials if t.state == "complete" and not t.cached and t.origin != "baseline"]
    faults[DUPLICATED] += [f"policy {digest} is settled {n} times" for digest, n in _repeated(fresh)]


def _leases(store: Any) -> list[str]:
    from sqlalchemy import select
    from sqlalchemy.orm import Session

    from autoprune.store.tables import LeaseRow

    with Session(store.engine) as session:
        return [row.holder for row in session.scalars(select(LeaseRow))]


def _sampler(url: str, faults: Faults) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name in optuna.get_all_study_names(url):
        for trial in optuna.load_study(study_name=name, storage=url).get_trials(deepcopy=False):
            if not trial.state.is_finished():
                faults[ZOMBIE].append(f"the sampler's trial {trial.number} is {trial.state.name}")


def _mlflow(uri: str, name: str, trials: list[Any], front: Mapping[str, Any], faults: Faults) -> None:
    from autoprune.registry import client as mlflow_client
    from autoprune.registry import names

    client = mlflow_client.connect(uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        faults[LOST].append("the experiment")
        return
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    faults[ZOMBIE] += [f"run {r.info.run_name} is {r.info.status}" for r in runs if r.info.status != "FINISHED"]
    parents = [r for r in runs if r.data.tags.get(names.KIND_TAG) == "study"]
    numbers = [int(r.data.tags[names.TRIAL_TAG]) for r in runs if names.TRIAL_TAG in r.data.tags]
    faults[DUPLICATED] += [f"{len(parents)} runs of one study"] * (len(parents) > 1)
    faults[DUPLICATED] += [f"trial {number} has {n} runs" for number, n in _repeated(numbers)]
    missing = {t.number for t in trials if t.state == "complete"} - set(numbers)
    faults[LOST] += [f"the run of trial {number}" for number in sorted(missing)]
    for run in runs:
        if names.TRIAL_TAG in run.data.tags:
            more = [m for m in run.data.metrics if len(client.get_metric_history(run.info.run_id, m)) > 1]
            faults[DUPLICATED] += [f"run {run.info.run_name}: {metric} more than once" for metric in more]
    chosen = [member["digest"] for member in front.get("members", ()) if member["selected"]]
    versions = client.search_model_versions(f"name='{name}'")
    digests = [v.tags.get(names.DIGEST_TAG, "") for v in versions]
    faults[DUPLICATED] += [f"policy {digest} has {n} versions" for digest, n in _repeated(digests)]
    faults[LOST] += [f"the version of {digest}" for digest in chosen if digest not in digests]
    if chosen and names.CANDIDATE not in dict(client.get_registered_model(name).aliases):
        faults[LOST].append("the alias 'candidate'")


def _repeated(items: Iterable[Any]) -> list[tuple[Any, int]]:
    return [(item, count) for item, count in Counter(items).items() if count > 1]
