"""What a test may need beside the library: present, or a skip that names it, or a failure where it was promised.

AUTOPRUNE_TEST_REQUIRE lists (comma-separated) what must not be missing: ray, mlflow, postgres.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable

import pytest

PACKAGES = ("ray", "mlflow")


def require(name: str, present: bool, reason: str) -> None:
    """Go on if it is there; else skip with the reason, or fail if AUTOPRUNE_TEST_REQUIRE names it."""
    if present:
        return
    if name in os.environ.get("AUTOPRUNE_TEST_REQUIRE", "").split(","):
        pytest.fail(f"AUTOPRUNE_TEST_REQUIRE names {name}, but {reason}")
    pytest.skip(reason)


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C works, also where the tests were started in the background (shells make such jobs ignore SIGINT)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in PACKAGES:
        if item.get_closest_marker(name) is not None:
            require(name, importlib.util.find_spec(name) is not None, f"{name} is not installed")


@pytest.fixture(scope="session", name="require")
def require_fixture() -> Callable[[str, bool, str], None]:
    return require
