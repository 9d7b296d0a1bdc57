"""Whether a GPU is quiet: a timing taken beside somebody else's work is theirs as well."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput
from autoprune.measures import registry as measures

if TYPE_CHECKING:
    from autoprune.ports import WorkerSpec

CONTEXT_BYTES = 2**30
"""What a process takes beside its tensors (CUDA's context, the libraries' workspaces) is below this."""

PATIENCE = 15.0
"""Seconds in which the memory of a worker that was just stopped has come back."""


def demand_quiet(spec: WorkerSpec, patience: float = PATIENCE) -> None:
    """BadInput where a measure is a timing and somebody else uses this process's GPU, as far as torch can tell: by the
    memory in use, and by the list of processes where NVML's bindings (nvidia-ml-py) are installed."""
    timed = [one.name for one in spec.measures if (info := measures.find(one.name)) is not None and info.timed]
    if not timed or not spec.device.startswith("cuda"):
        return
    import torch

    until = time.monotonic() + patience
    while others := _others(torch, spec.device):
        if time.monotonic() >= until:
            name = torch.cuda.get_device_name(spec.device)
            raise BadInput(
                f"{timed[0]} is a timing and needs a quiet GPU, but on {socket.gethostname()} {others} on {name}; stop "
                "what runs there, or search without it",
                code="shared-device",
            )
        time.sleep(min(1.0, patience))


def _others(torch: Any, device: str) -> str:
    """What somebody else does on the GPU; '' if nothing. This process counts once, under whatever number."""
    free, total = torch.cuda.mem_get_info(device)
    foreign = total - free - torch.cuda.memory_reserved(device)
    listed = str(torch.cuda.list_gpu_processes(device)).splitlines()
    processes = sum(line.strip().startswith("process ") for line in listed)
    if processes > 1:
        return f"{processes - 1} other processes run"
    return f"others hold {foreign / 2**30:.1f} GiB" if foreign > CONTEXT_BYTES else ""
