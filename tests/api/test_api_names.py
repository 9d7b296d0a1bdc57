"""The names that users import: functions, also after everything else was imported."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import autoprune
from autoprune import api

EVERYTHING = """
import importlib, pkgutil, autoprune, autoprune.api
for package in (autoprune, autoprune.api):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
names = [(autoprune, name) for name in autoprune.__all__ if name != "__version__"]
names += [(autoprune.api, name) for name in autoprune.api._HOMES]
print([f"{where.__name__}.{name}" for where, name in names if not callable(getattr(where, name))])
"""


def test_no_function_is_hidden_by_a_module_of_its_name() -> None:
    done = subprocess.run([sys.executable, "-c", EVERYTHING], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_promised_name_is_there() -> None:
    for name, home in api._HOMES.items():
        assert getattr(importlib.import_module(f"autoprune.api.{home}"), name) is getattr(api, name)
    assert not {m.name for m in pkgutil.iter_modules(api.__path__)} & set(api._HOMES)
    assert all(hasattr(autoprune, name) for name in autoprune.__all__)
