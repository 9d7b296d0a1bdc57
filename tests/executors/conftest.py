from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from executors_fakes import worker_spec

from autoprune.executors import InlineExecutor, RayExecutor
from autoprune.ports import Executor

Make = Callable[..., Executor]


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One small Ray for the whole session."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    here = str(Path(__file__).parent)  # workers import `executors_fakes` too
    ray.init(
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))}},
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 * 2**20,
    )
    yield
    ray.shutdown()


def create(kind: str, folder: Path, how: str = "build", workers: int = 1) -> Executor:
    """An executor on the obedient evaluator with its notes in `folder`."""
    spec, path = worker_spec(folder), f"executors_fakes:{how}"
    if kind == "inline":
        return InlineExecutor(spec, path)
    return RayExecutor(spec, workers, cpus_per_worker=0.05, build=path)  # the shared workers take room too


KINDS = ["inline", pytest.param("ray", marks=pytest.mark.ray)]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """A factory of fresh executors; closes what it made."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
    made: list[Executor] = []

    def build(how: str = "build", workers: int = 1) -> Executor:
        made.append(create(request.param, tmp_path, how, workers))
        return made[-1]

    yield build
    for executor in made:
        executor.close()


@pytest.fixture(scope="session", params=KINDS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    """One executor (two workers on Ray) for the tests that leave it as they found it: workers start slowly."""
    if request.param == "ray":
        request.getfixturevalue("cluster")
    executor = create(request.param, tmp_path_factory.mktemp("shared"), workers=2)
    yield executor
    executor.close()
