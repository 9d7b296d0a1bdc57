from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


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
