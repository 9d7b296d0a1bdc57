"""Joining or starting a Ray cluster, and whether it has room for the workers."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from autoprune.errors import AutoPruneError, BadInput

if TYPE_CHECKING:
    from autoprune.codes import Code

_OBJECT_STORE_BYTES = 256 * 2**20
"""Workers exchange requests and numbers, no tensors; Ray's default would reserve a third of the machine."""


def connect(address: str | None) -> bool:
    """Make sure that Ray runs; True if this call started or joined it (then the caller has to shut it down).

    Without an address (argument or RAY_ADDRESS, which `ray job submit` sets) a private cluster starts on this machine.
    Its token authentication is off unless RAY_AUTH_MODE says otherwise: nobody else is meant to join it, and Ray would
    write a token into the home folder. Clusters somebody else started keep theirs.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # Ray reads it when it is imported
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # Ray tells of dead workers on stdout; we log it instead
    ray = import_ray()
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        quiet |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise AutoPruneError(f"Ray at '{address}' cannot be used: {error}") from error
    return True


def import_ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise BadInput("ray and ray-tune need Ray: pip install 'autoprune[ray]'", code="not-installed") from error
    return ray


@dataclass(frozen=True)
class Room:
    """What an executor asks a cluster for: `workers` (None = as many as fit) with so many GPUs and CPUs each."""

    executor: str
    workers: int | None
    gpus: float
    cpus: float

    def check(self, device: str) -> None:
        """BadInput for what no cluster could give to a worker whose model lives on `device`."""
        if (self.workers is not None and self.workers < 1) or self.cpus <= 0 or self.gpus < 0:
            self._refuse("out-of-range", "workers is at least 1, cpus_per_worker above 0, gpus_per_worker at least 0")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            self._refuse("out-of-range", f"gpus_per_worker is a part of one GPU or a whole number, not {self.gpus}")
        if device.startswith("cuda") and self.gpus == 0:
            self._refuse("conflict", f"the model's device is '{device}', so gpus_per_worker must be above 0")
        if device.startswith("cuda:"):
            self._refuse("conflict", f"Ray chooses each worker's GPU; write device 'cuda', not '{device}'")

    def _refuse(self, code: Code, message: str) -> NoReturn:
        raise BadInput(f"executor {self.executor}: {message}", code=code)

    def find(self) -> int:
        """How many workers there will be. BadInput with the numbers unless every one fits on some node: otherwise Ray
        would wait for ever, silently."""
        nodes = [node["Resources"] for node in import_ray().nodes() if node["Alive"]]
        fit = sum(fits(node, self.gpus, self.cpus) for node in nodes)
        if fit >= (self.workers or 1):
            return self.workers or fit
        have = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        asked = f"{self.workers or 1} workers with {self.gpus:g} GPUs and {self.cpus:g} CPUs each do not fit"
        there = f"only {fit} would ({len(nodes)} nodes: {have})"
        self._refuse("too-large", f"{asked}, {there}; ask for fewer workers, or less per worker")


def fits(node: dict[str, float], gpus: float, cpus: float) -> int:
    """How many workers one node holds. A worker lives on one node, so sums over the cluster would promise too much; and
    a part of a GPU is a part of one, so two GPUs hold two workers of 0.6."""
    by_cpu = int(node.get("CPU", 0) / cpus + 1e-9)
    if gpus == 0:
        return by_cpu
    there = int(node.get("GPU", 0) + 1e-9)
    return min(by_cpu, there * int(1 / gpus + 1e-9) if gpus < 1 else int(there / gpus))
