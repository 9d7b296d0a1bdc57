"""What a device is called: a timing belongs to it."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def device_name(device: str) -> str:
    """The name of the hardware behind `cpu`, `cuda:1`, …, with its cores for a processor. A GPU that is not in this
    machine is called as it was asked for."""
    kind, _, number = device.partition(":")
    if kind == "cuda":
        import torch

        if torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count():
            return str(torch.cuda.get_device_name(int(number or 0)))
        return device
    if kind != "cpu":
        return f"{device} {platform.machine()}"
    return f"{_processor()}, {os.cpu_count()} cores"


def best_device() -> str:
    """`cuda` where there is a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _processor() -> str:
    """Linux says it in /proc; elsewhere the platform does."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
