"""Where evaluations run: in this process, or on long-lived Ray actors. One conformance suite holds for all.

Importing this package imports neither ray nor torch.
"""

from __future__ import annotations

from autoprune.executors.choose import make_executor
from autoprune.executors.inline import InlineExecutor
from autoprune.executors.ray_actors import RayExecutor

__all__ = ["InlineExecutor", "RayExecutor", "make_executor"]
