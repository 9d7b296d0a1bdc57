"""What runs inside a Ray actor. A plain class: Ray is not needed to read or test it."""

from __future__ import annotations

from autoprune.errors import AutoPruneError, BadInput
from autoprune.executors.build import build_evaluator
from autoprune.executors.classify import attempt
from autoprune.executors.quiet import demand_quiet
from autoprune.ports import EvalRequest, Evaluator, Failed, Measured, Reporting, WorkerSpec


class Worker:
    """Builds its evaluator once, in `start`: a constructor's error would reach the driver without its type."""

    def __init__(self) -> None:
        self._evaluator: Evaluator | None = None

    def start(self, spec: WorkerSpec, build: str, gpus: float) -> None:
        if 0 < gpus < 1 and spec.device.startswith("cuda"):
            import torch

            torch.cuda.set_per_process_memory_fraction(gpus)  # Ray only counts; it caps nothing
        demand_quiet(spec)
        try:
            self._evaluator = build_evaluator(build, spec)
        except BadInput:
            raise
        except Exception as error:  # not every library's exception survives the trip to the driver: its text does
            raise AutoPruneError(f"a worker could not load the model: {type(error).__name__}: {error}") from error

    def report(self) -> list[str]:
        return list(self._evaluator.report()) if isinstance(self._evaluator, Reporting) else []

    def evaluate(self, request: EvalRequest) -> Measured | Failed:
        if self._evaluator is None:
            raise RuntimeError("the worker was not started")
        return attempt(self._evaluator, request)
