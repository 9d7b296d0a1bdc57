"""Joining or starting a Ray cluster, and whether it has room for the workers."""

from __future__ import annotations

import logging
import os
from typing import Any

from autoprune.errors import AutoPruneError, BadInput

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
        raise BadInput("executor 'ray' needs Ray: pip install 'autoprune[ray]'") from error
    return ray


def demand_room(workers: int, gpus: float, cpus: float) -> None:
    """BadInput with the numbers unless every worker fits on some node. Otherwise Ray would wait for ever, silently."""
    nodes = [node["Resources"] for node in import_ray().nodes() if node["Alive"]]
    fit = sum(_fits(node, gpus, cpus) for node in nodes)
    if fit >= workers:
        return
    have = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
    raise BadInput(
        f"executor ray: {workers} workers with {gpus:g} GPUs and {cpus:g} CPUs each do not fit, only {fit} would "
        f"({len(nodes)} nodes: {have}); ask for fewer workers, or less per worker"
    )


def _fits(node: dict[str, float], gpus: float, cpus: float) -> int:
    """How many workers one node holds. A worker lives on one node, so sums over the cluster would promise too much; and
    a part of a GPU is a part of one, so two GPUs hold two workers of 0.6."""
    by_cpu = int(node.get("CPU", 0) / cpus + 1e-9)
    if gpus == 0:
        return by_cpu
    there = int(node.get("GPU", 0) + 1e-9)
    return min(by_cpu, there * int(1 / gpus + 1e-9) if gpus < 1 else int(there / gpus))
