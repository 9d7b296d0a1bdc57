"""`executor: auto | inline | ray` turned into an executor."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Literal

from autoprune.executors.build import EVALUATOR
from autoprune.executors.inline import InlineExecutor
from autoprune.executors.ray_actors import RayExecutor
from autoprune.ports import WorkerSpec

if TYPE_CHECKING:
    from autoprune.ports import Executor


def make_executor(
    kind: Literal["auto", "inline", "ray"],
    spec: WorkerSpec,
    *,
    workers: int = 1,
    gpus_per_worker: float = 0,
    cpus_per_worker: float = 1,
    address: str | None = None,
    evaluation_timeout: float | None = None,
    build: str = EVALUATOR,
) -> Executor:
    """The executor a spec asks for; everything after `spec` but `build` concerns ray alone.

    `auto` is ray where it is installed and this machine has room for more than one worker (`room`), with as many
    workers as fit and one GPU each on CUDA; else inline. It ignores the numbers given for ray, but not the timeout.
    """
    if kind == "auto":
        workers = room(spec) if importlib.util.find_spec("ray") is not None else 1
        kind = "ray" if workers > 1 else "inline"
        gpus_per_worker, cpus_per_worker = (1, 1) if spec.device.startswith("cuda") else (0, spec.threads or 1)
        address = None
    if kind == "inline":
        return InlineExecutor(spec, build)
    return RayExecutor(
        spec,
        workers,
        gpus_per_worker=gpus_per_worker,
        cpus_per_worker=cpus_per_worker,
        build=build,
        address=address,
        evaluation_timeout=evaluation_timeout,
    )


def room(spec: WorkerSpec) -> int:
    """How many workers this machine holds, at least 1: its GPUs on CUDA (a core for each), else its cores / `threads`.

    Without `threads` one worker computes on all cores, so there is no room for a second.
    """
    if spec.device.startswith("cuda"):
        import torch

        return max(1, min(torch.cuda.device_count(), os.cpu_count() or 1))
    return max(1, (os.cpu_count() or 1) // spec.threads) if spec.threads else 1
