"""Which model a policy was made for: its architecture and its stored weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from autoprune.document.json import parse_json
from autoprune.errors import BadInput, Mistake
from autoprune.models.family import family_of
from autoprune.models.folder import locate, read_config, read_processor
from autoprune.policy.geometry import Geometry

ADAPTER = "adapter_model.safetensors"
CHUNK = 1 << 22
LATER = {"projector_hidden": None}
LATER_VISION = {"gated_mlp": False, "windowed": (), "window": 0, "deepstack": ()}


@dataclass(frozen=True)
class Fingerprint:
    """SHA-256 digests. `weights` is empty where a live model cannot be traced to files; `revision` is the hub's."""

    architecture: str
    weights: str = ""
    revision: str | None = None


def fingerprint(path: str | Path, revision: str | None = None) -> Fingerprint:
    """Fingerprint of the model in a folder or in the hub's cache, from config and safetensors files. Torch-free.

    Raises BadInput where there is no config.json or a weight file is corrupt.
    """
    folder = locate(str(path), revision)
    settings = read_config(folder), read_processor(folder)
    snapshot = folder.name if folder.parent.name == "snapshots" else None
    return Fingerprint(architecture_digest(*settings), weights_digest(folder), revision or snapshot)


def live_fingerprint(model: Any) -> Fingerprint:
    """Fingerprint of a loaded model: from its folder where that is known and local, else of the architecture alone.

    Adapters that were put on in memory have no file to be compared with, so `weights` is empty then.
    """
    config = model.config.to_dict()
    folder = _folder_of(model.config)
    if folder is None:
        return Fingerprint(architecture_digest(config, None))
    stored = fingerprint(folder)
    architecture = architecture_digest(config, read_processor(folder))
    if getattr(model, "_hf_peft_config_loaded", False) or hasattr(model, "peft_config"):
        return Fingerprint(architecture, "", stored.revision)
    return Fingerprint(architecture, stored.weights, stored.revision)


def _folder_of(config: Any) -> Path | None:
    """The files a loaded model came from, None where they cannot be told.

    A hub id alone does not say which revision was loaded: without the commit, only a cache of a single one does.
    """
    source, commit = str(getattr(config, "_name_or_path", "") or ""), getattr(config, "_commit_hash", None)
    try:
        folder = locate(source, commit) if source else None
    except BadInput:
        return None
    if folder is None or Path(source).expanduser().is_dir() or commit is not None:
        return folder
    return folder if len([p for p in folder.parent.iterdir() if p.is_dir()]) == 1 else None


def architecture_digest(config: Mapping[str, Any], processor: Mapping[str, Any] | None) -> str:
    """Digest of family, depths, widths, heads, vision geometry and the effective settings that decide N."""
    family = family_of(config)
    content = {
        "geometry": _numbers(family.geometry(config, processor)),
        "tokens": family.token_settings(config, processor),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _numbers(geometry: Geometry) -> dict[str, Any]:
    """The geometry's fields. Those that came later are left out at their defaults: digests stay what they were."""
    numbers = asdict(geometry)
    for table, later in ((numbers, LATER), (numbers["vision"], LATER_VISION)):
        for name, default in later.items():
            if table[name] == default:
                del table[name]
    return numbers


def weights_digest(folder: Path) -> str:
    """Digest over sorted (tensor name, shape, SHA-256 of stored bytes); adapters follow. Empty without safetensors."""
    files = sorted(p for p in folder.glob("*.safetensors") if p.name != ADAPTER)
    adapters = [folder / ADAPTER] if (folder / ADAPTER).is_file() else []
    total = hashlib.sha256()
    for group in (files, adapters):
        for entry in sorted(e for p in group for e in _entries(p)):
            total.update(json.dumps(entry).encode())
        if group is adapters and adapters:
            total.update(b"adapter")
    return total.hexdigest() if files or adapters else ""


def _entries(path: Path) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    real = path.resolve()
    stat = real.stat()
    return _read_entries(str(real), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _read_entries(path: str, size: int, modified: int) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """(name, shape, digest) of every tensor of one safetensors file; remembered by path, size and mtime."""
    return tuple(_walk(Path(path), size))


def _walk(path: Path, size: int) -> Iterator[tuple[str, tuple[int, ...], str]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length <= 0 or length + 8 > size:
            raise BadInput(
                f"{path}: not a safetensors file (header of {length} bytes in a file of {size})",
                code="unreadable-model",
            )
        try:
            header = parse_json(file.read(length))
            tensors = [(n, e["shape"], *e["data_offsets"]) for n, e in header.items() if n != "__metadata__"]
        except (Mistake, AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path}: corrupt safetensors header: {error}", code="unreadable-model") from error
        for name, shape, begin, end in tensors:
            if 8 + length + end > size:
                raise BadInput(f"{path}: truncated: tensor {name!r} ends after the file does", code="unreadable-model")
            file.seek(8 + length + begin)
            yield name, tuple(shape), _digest(file, end - begin)


def _digest(file: Any, count: int) -> str:
    digest = hashlib.sha256()
    while count > 0:
        block = file.read(min(CHUNK, count))
        digest.update(block)
        count -= len(block)
    return digest.hexdigest()
