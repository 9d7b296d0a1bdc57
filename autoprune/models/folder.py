"""Reading a model's settings from a local folder or the hub's cache, without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.document.json import parse_json
from autoprune.errors import BadInput, Mistake
from autoprune.models.family import geometry_of
from autoprune.policy.geometry import Geometry
from autoprune.policy.sites import MOST_LAYERS

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def locate(path: str, revision: str | None = None) -> Path:
    """The folder holding a model's files: a local folder, or the hub cache's snapshot of a model id.

    Raises BadInput when neither has a config.json. Never touches the network.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BadInput(f"{folder} has no config.json: not a model folder", code="no-such-model")
        return folder
    if folder.is_absolute() or path.count("/") != 1:
        raise BadInput(f"no such model folder: {path}", code="no-such-model")
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(path, "config.json", revision=revision)
    except HFValidationError as error:
        raise BadInput(f"model {path!r} is neither a folder nor a hub id", code="no-such-model") from error
    if isinstance(found, str):
        return Path(found).parent
    raise BadInput(f"model {path!r} is neither a local folder nor in the hub cache", code="no-such-model")


PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def only_pickled(folder: Path) -> bool:
    """Whether a folder has weights, and none that can be read without running code."""
    return not any(folder.glob("*.safetensors")) and any(path for kind in PICKLES for path in folder.glob(kind))


def read_config(folder: Path) -> dict[str, Any]:
    return _read_json(folder / "config.json")


def read_processor(folder: Path) -> dict[str, Any] | None:
    """The processor's settings with the image processor's beneath `image_processor`, or None where there are none."""
    merged: dict[str, Any] = {}
    for name in reversed(PROCESSOR_FILES):
        if not (folder / name).is_file():
            continue
        data = _read_json(folder / name)
        if name == "preprocessor_config.json":
            merged["image_processor"] = data
        else:
            merged = {**merged, **data}
    return merged or None


def read_geometry(path: str | Path, revision: str | None = None) -> Geometry:
    """Geometry of the model in a folder or in the hub's cache. Raises BadInput; imports no torch."""
    folder = locate(str(path), revision)
    geometry = geometry_of(read_config(folder), read_processor(folder))
    if max(geometry.depth, geometry.vision_depth) >= MOST_LAYERS:
        raise BadInput(f"{folder}: a model of {MOST_LAYERS} layers or more is not supported", code="unsupported-model")
    return geometry


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = parse_json(path.read_bytes())
    except (OSError, Mistake) as error:
        raise BadInput(f"{path}: cannot be read as JSON: {error}", code="unreadable-model") from error
    if not isinstance(data, Mapping):
        raise BadInput(f"{path}: expected a JSON object", code="unreadable-model")
    return dict(data)
