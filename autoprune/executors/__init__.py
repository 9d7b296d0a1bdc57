"""Where evaluations run: in this process, on long-lived Ray actors, or as trials of Ray Tune. One conformance suite
holds for all.

Importing this package imports neither ray nor torch.
"""

from __future__ import annotations

from autoprune.executors.choose import make_executor
from autoprune.executors.inline import InlineExecutor
from autoprune.executors.ray_actors import RayExecutor
from autoprune.executors.ray_tune import RayTuneExecutor

__all__ = ["InlineExecutor", "RayExecutor", "RayTuneExecutor", "make_executor"]
