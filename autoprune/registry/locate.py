"""Where MLflow is, in production: the argument, the environment, or the nearest `.autoprune/` folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from autoprune.errors import BadInput

FOLDER = ".autoprune"
DATABASE = "mlflow.db"
VARIABLE = "MLFLOW_TRACKING_URI"


def tracking_uri(
    argument: str | None = None, *, environ: Mapping[str, str] | None = None, start: Path | None = None
) -> str:
    """The tracking URI: `argument`, else MLFLOW_TRACKING_URI, else the `mlflow.db` of the nearest `.autoprune/` at or
    above `start` (the current folder). Raises BadInput that names the three if there is none."""
    if argument:
        return argument
    if from_environment := (os.environ if environ is None else environ).get(VARIABLE):
        return from_environment
    here = (start or Path.cwd()).resolve()
    empty: Path | None = None
    for folder in (here, *here.parents):
        home = folder / FOLDER
        if (home / DATABASE).is_file():
            return embedded(home)
        if empty is None and home.is_dir():
            empty = home
    found = f" ({empty} has no {DATABASE}: nothing was published from there)" if empty is not None else ""
    raise BadInput(
        "no MLflow tracking URI: give it as an argument (--tracking-uri), set "
        f"{VARIABLE}, or work in or below a folder with {FOLDER}/{DATABASE}; looked upward from {here}{found}",
        code="no-registry",
    )


def embedded(home: Path) -> str:
    """The tracking URI of the MLflow database inside an `.autoprune/` folder (which need not exist yet)."""
    return f"sqlite:///{(home / DATABASE).resolve()}"
