from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executors_fakes import patient_ray
from executors_support import KINDS, ON_RAY, Make, create

from autoprune.ports import Executor


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """One small Ray for the whole session."""
    patient_ray()
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


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """A factory of fresh executors; closes what it made."""
    yield from factory(request, tmp_path)


@pytest.fixture(params=ON_RAY)
def make_on_ray(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """The same, of those that have processes to lose."""
    yield from factory(request, tmp_path)


def factory(request: pytest.FixtureRequest, folder: Path) -> Iterator[Make]:
    if request.param != "inline":
        request.getfixturevalue("cluster")
    made: list[Executor] = []

    def build(how: str = "build", workers: int = 1, **options: Any) -> Executor:
        made.append(create(request.param, folder, how, workers, **options))
        return made[-1]

    yield build
    for executor in made:
        executor.close()


@pytest.fixture(scope="session", params=KINDS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    """One executor (two workers on Ray) for the tests that leave it as they found it: workers start slowly."""
    if request.param != "inline":
        request.getfixturevalue("cluster")
    executor = create(request.param, tmp_path_factory.mktemp("shared"), workers=2)
    yield executor
    executor.close()
