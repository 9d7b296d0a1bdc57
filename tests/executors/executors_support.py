"""How the tests make executors of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from executors_fakes import worker_spec

from autoprune.executors import InlineExecutor, RayExecutor, RayTuneExecutor
from autoprune.ports import Executor

Make = Callable[..., Executor]


def create(kind: str, folder: Path, how: str = "build", workers: int = 1, **options: Any) -> Executor:
    """An executor on the obedient evaluator with its notes in `folder`."""
    spec, path = worker_spec(folder), f"executors_fakes:{how}"
    if kind == "inline":
        return InlineExecutor(spec, path)
    options = {"cpus_per_worker": 0.05, **options}  # the shared workers take room too
    return {"ray": RayExecutor, "ray-tune": RayTuneExecutor}[kind](spec, workers, build=path, **options)


ON_RAY = [pytest.param(kind, marks=pytest.mark.ray) for kind in ("ray", "ray-tune")]
KINDS = ["inline", *ON_RAY]
