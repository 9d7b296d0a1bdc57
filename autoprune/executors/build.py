"""From a dotted path to an evaluator. A path travels to another process, a function object does not."""

from __future__ import annotations

import importlib
from typing import cast

from autoprune.ports import Evaluator, WorkerSpec

EVALUATOR = "autoprune.measures.evaluator:build"
"""`module:function`, called with a WorkerSpec, returns an Evaluator."""


def build_evaluator(path: str, spec: WorkerSpec) -> Evaluator:
    """Import and call the builder. Its errors are its own (BadInput for what the user can mend)."""
    module, _, function = path.partition(":")
    if not module or not function:
        raise ValueError(f"a builder is written 'module:function', not '{path}'")
    return cast(Evaluator, getattr(importlib.import_module(module), function)(spec))
