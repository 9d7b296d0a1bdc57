"""A comparison in MLflow: one run with its numbers and files, in the experiment of the spec's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.registry import client as mlflow_client
from autoprune.registry import names, projection


def log_comparison(uri: str, document: Mapping[str, Any], files: Sequence[Path]) -> str:
    """Log a comparison; -> one line for people. An MLflow that is away costs the run, never the result."""
    where = mlflow_client.shown(uri)
    if (reason := mlflow_client.unreachable(uri)) is not None:
        return f"MLflow at {where} is away ({reason}): the comparison was not logged"
    try:
        run_id = _log(uri, document, files)
    except Exception as error:
        if not mlflow_client.is_failure(error):
            raise
        return f"MLflow at {where} failed ({mlflow_client.one_line(error)}): the comparison was not logged"
    return f"logged in MLflow: {where}, experiment {document['name']!r}, run {run_id}"


def _log(uri: str, document: Mapping[str, Any], files: Sequence[Path]) -> str:
    client = mlflow_client.connect(uri)
    experiment = projection.experiment_named(client, uri, document["name"])
    tags = {names.KIND_TAG: "comparison", "autoprune.model": str(document["model"])}
    run = client.create_run(experiment, tags=tags, run_name=f"{document['name']}: comparison")
    score = document["score"]
    for key in ("split", "records", "images", "confidence"):
        client.log_param(run.info.run_id, key, document[key])
    client.log_metric(run.info.run_id, f"baseline.{score}", document["baseline"][score]["value"])
    for row in document["rows"]:
        if row["state"] == "measured":
            name = names.key(f"{row['policy']}.at_{row['target']:.3f}.{score}")
            client.log_metric(run.info.run_id, name, row[score]["value"])
    for file in files:
        client.log_artifact(run.info.run_id, str(file))
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)
