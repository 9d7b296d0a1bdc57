"""Where a driver can be made to die or to fail: the named steps between the writes of a result.

Nothing of this is in the product: a step is a method of it, wrapped from outside in the process that shall die. A name
that is no longer there is an error when it is armed, so that the list cannot rot in silence.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Side = Literal["before", "after"]
Action = Callable[[], None]


@dataclass(frozen=True)
class Step:
    """One method between whose calls the world may end."""

    name: str
    module: str
    owner: str
    method: str


STORE = ("autoprune.store.study_log", "StudyLog")
MEMORY = ("autoprune.search.memory", "SamplerMemory")
MLFLOW = ("mlflow", "MlflowClient")

STEPS = (
    Step("sampler: proposal identified", *MEMORY, "identify"),
    Step("sampler: evaluation noted as paid", *MEMORY, "mark_dispatched"),
    Step("store: evaluation committed", *STORE, "remember"),
    Step("sampler: told", *MEMORY, "tell"),
    Step("sampler: state changed", "optuna", "Study", "tell"),
    Step("store: trial and outbox row committed", *STORE, "settle"),
    Step("mlflow: run made", *MLFLOW, "create_run"),
    Step("mlflow: numbers written", *MLFLOW, "log_batch"),
    Step("mlflow: run ended", *MLFLOW, "set_terminated"),
    Step("outbox: row marked", *STORE, "mark_published"),
    Step("store: holdout's use counted", *STORE, "count_holdout_use"),
    Step("store: front committed", *STORE, "save_front"),
    Step("files: policy saved", "autoprune.pruning.loaded", "LoadedPolicy", "save_pretrained"),
    Step("store: publish row committed", *STORE, "queue"),
    Step("mlflow: version made", *MLFLOW, "create_model_version"),
    Step("mlflow: alias moved", *MLFLOW, "set_registered_model_alias"),
)
BY_NAME = {step.name: step for step in STEPS}


def die() -> None:
    """As a crash, an out-of-memory killer or a power cut would have it: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def arm(step: Step, side: Side, nth: int, action: Action = die) -> None:
    """In this process, `action` before or after the n-th call (from 1) of the step's method."""
    owner = getattr(importlib.import_module(step.module), step.owner)
    real, calls = getattr(owner, step.method), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and side == "before":
            action()
        result = real(*args, **kwargs)
        if calls == nth and side == "after":
            action()
        return result

    setattr(owner, step.method, wrapped)


def fill_disk(database: str, pages: int) -> None:
    """In this process, the SQLite file of that name may grow by so many pages; then SQLite itself says that it is full.

    Every connection to it is limited, whoever opens it (our store, Optuna, MLflow).
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    most: dict[str, int] = {}

    @event.listens_for(Engine, "connect")
    def limit(connection: Any, _record: Any) -> None:
        files = [Path(row[2]) for row in connection.execute("PRAGMA database_list").fetchall() if row[2]]
        if files and files[0].name == database:
            used = int(connection.execute("PRAGMA page_count").fetchone()[0])
            most.setdefault(database, used + pages)
            connection.execute(f"PRAGMA max_page_count = {most[database]}")
