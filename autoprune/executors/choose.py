"""`executor: auto | inline | ray | ray-tune` turned into an executor."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autoprune.executors.build import EVALUATOR
from autoprune.executors.inline import InlineExecutor
from autoprune.executors.ray_actors import RayExecutor
from autoprune.executors.ray_tune import RayTuneExecutor
from autoprune.ports import WorkerSpec

if TYPE_CHECKING:
    from autoprune.ports import Executor


def make_executor(
    kind: Literal["auto", "inline", "ray", "ray-tune"],
    spec: WorkerSpec,
    *,
    workers: int | None = 1,
    gpus_per_worker: float = 0,
    cpus_per_worker: float = 1,
    address: str | None = None,
    evaluation_timeout: float | None = None,
    results: Path | None = None,
    build: str = EVALUATOR,
) -> Executor:
    """The executor a spec asks for; everything after `spec` but `build` concerns Ray alone, `results` ray-tune.

    `auto` is ray where an address is given, with as many workers as fit into the cluster; or where Ray is installed and
    this machine has room for more than one worker (`room`), with as many as that. Each has one GPU on CUDA. Else it is
    inline. It ignores the numbers given for Ray, but not the timeout.
    """
    if kind == "auto":
        workers = None if address is not None else room(spec) if importlib.util.find_spec("ray") is not None else 1
        kind = "inline" if workers == 1 else "ray"
        gpus_per_worker, cpus_per_worker = (1, 1) if spec.device.startswith("cuda") else (0, spec.threads or 1)
    if kind == "inline":
        return InlineExecutor(spec, build)
    numbers = workers, gpus_per_worker, cpus_per_worker
    if kind == "ray":
        return RayExecutor(spec, *numbers, build, address, evaluation_timeout)
    return RayTuneExecutor(spec, *numbers, build, address, evaluation_timeout, results)


def room(spec: WorkerSpec) -> int:
    """How many workers this machine holds, at least 1: its GPUs on CUDA (a core for each), else its cores / `threads`.

    Without `threads` one worker computes on all cores, so there is no room for a second.
    """
    if spec.device.startswith("cuda"):
        import torch

        return max(1, min(torch.cuda.device_count(), os.cpu_count() or 1))
    return max(1, (os.cpu_count() or 1) // spec.threads) if spec.threads else 1
