"""What `autoprune doctor` finds out about the installation: versions, torch and its companions, devices, Ray.

The tested ranges are those of the package itself (`pyproject.toml`), read from its installed metadata.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from autoprune.spec.load import LoadedSpec

State = Literal["ok", "warn", "fail"]
CONNECT_SECONDS = 3.0
EXTRAS = {"ray": "several workers", "mlflow": "tracking and the registry", "postgres": "PostgreSQL"}


@dataclass(frozen=True)
class Finding:
    """One line. `todo` says what to do about it; empty where nothing has to be done."""

    name: str
    state: State
    said: str
    todo: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def versions() -> Iterator[Finding]:
    """Every library that AutoPrune needs, or could use, against the range it was tested with."""
    from packaging.requirements import Requirement

    for requirement in (Requirement(line) for line in metadata.requires("autoprune") or ()):
        if requirement.marker is None:
            yield _version(requirement, "fail", f"pip install '{_plain(requirement)}'")
            continue
        for extra, use in EXTRAS.items():
            if requirement.marker.evaluate({"extra": extra}) and not requirement.marker.evaluate({"extra": ""}):
                yield _version(requirement, "warn", f"for {use}: pip install 'autoprune[{extra}]'")


def _version(requirement: Requirement, absent: State, todo: str) -> Finding:
    try:
        there = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(requirement.name, absent, "not installed", todo)
    if requirement.specifier.contains(there.partition("+")[0], prereleases=True):
        return Finding(requirement.name, "ok", there)
    said = f"{there} is outside the tested range {requirement.specifier}"
    return Finding(requirement.name, "fail", said, f"pip install '{_plain(requirement)}'")


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def torchvision() -> Iterator[Finding]:
    """A torchvision that does not go with torch breaks transformers as a whole."""
    if importlib.util.find_spec("torchvision") is None:
        yield Finding("torchvision", "ok", "not installed; families with a video processor want it")
        return
    from packaging.requirements import Requirement

    torch, own = metadata.version("torch"), metadata.version("torchvision")
    wanted = [r for r in map(Requirement, metadata.requires("torchvision") or ()) if r.name == "torch"]
    if any(not r.specifier.contains(torch.partition("+")[0], prereleases=True) for r in wanted):
        said = f"{own} was built for torch{wanted[0].specifier}, and torch is {torch}"
        yield Finding("torchvision", "fail", said, "install the release that goes with this torch, or uninstall it")
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # noqa: BLE001  (a broken binary raises what it likes)
        said = f"{own} cannot be imported: {str(error).splitlines()[0]}"
        todo = "torch and torchvision must both be CPU builds or both CUDA builds, from the same index"
        yield Finding("torchvision", "fail", said, todo)
        return
    yield Finding("torchvision", "ok", f"{own} goes with torch {torch}")


def devices(loaded: LoadedSpec | None) -> Iterator[Finding]:
    """GPUs as torch sees them, and whether the spec's device is one of them."""
    import torch

    from autoprune.api.state import check_device
    from autoprune.errors import BadInput

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            said = f"{torch.cuda.get_device_name(number)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            busy = free < total / 2
            todo = "other programs use it: latency measured here means little" if busy else ""
            yield Finding(f"cuda:{number}", "warn" if busy else "ok", said, todo)
    elif shutil.which("nvidia-smi") is not None:
        said = f"there is a GPU, but torch {torch.__version__} does not see it"
        yield Finding("cuda", "warn", said, "install a CUDA build of torch that this driver supports (nvidia-smi)")
    else:
        yield Finding("cuda", "ok", f"no GPU; {os.cpu_count()} CPU cores")
    if loaded is not None:
        wanted = loaded.spec.model.device
        try:
            check_device(wanted)
        except BadInput as error:
            yield Finding(
                "model.device", "fail", str(error), "correct model.device, or search on a machine that has it"
            )
        else:
            yield Finding("model.device", "ok", wanted)


def ray(loaded: LoadedSpec | None) -> Iterator[Finding]:
    """Whether the executor that the spec asks for can start here."""
    wish: Any = None if loaded is None else loaded.spec.search.executor
    if wish is None or not wish.kind.startswith("ray"):
        return
    if importlib.util.find_spec("ray") is None:
        yield Finding("executor", "fail", f"{wish.kind}: Ray is not installed", "pip install 'autoprune[ray]'")
        return
    cores, needed = os.cpu_count() or 1, wish.pool.workers * wish.pool.cpus_per_worker
    if wish.pool.address is None and needed > cores:
        said = f"{wish.pool.workers} workers want {needed:g} cores; this machine has {cores}"
        yield Finding("executor", "fail", said, "ask for fewer workers, or name a cluster (ray: {address: …})")
        return
    address = wish.pool.address or os.environ.get("RAY_ADDRESS")
    yield _cluster(f"{wish.kind}, {wish.pool.workers} workers", address)


def _cluster(said: str, address: str | None) -> Finding:
    """Whether something answers at a cluster's address; joining it, as only a search does, would leave traces there."""
    if address in (None, "local"):
        return Finding("executor", "ok", f"{said}, on this machine")
    host, _, port = str(address).rpartition("://")[2].strip("/").rpartition(":")
    if not host or not port.isdigit():
        said = f"{said}, on the cluster {address!r}, which was not contacted"
        return Finding("executor", "warn", said, "give its address as host:port for doctor to try it")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        todo = "start the cluster (ray start --head), or correct search.executor's address or RAY_ADDRESS"
        return Finding("executor", "fail", f"no Ray cluster answers at {address} ({error})", todo)
    return Finding("executor", "ok", f"{said}, on the cluster at {address}, which answers")
