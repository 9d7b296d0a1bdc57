"""How long a front's policies take to prefill on the machines that serve them, kept beside a version: a measured time
belongs to its device, so it is added where the policy is to run, after the search and without changing the version.

A registered version keeps it in a tag for each device, a folder in `timings.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import BadInput
from autoprune.registry import client as mlflow_client
from autoprune.registry import names, policies
from autoprune.registry.reference import ModelReference, is_uri, parse

TIMINGS_FILE = "timings.json"
_LIMIT = 5000  # MLflow's, on a version's tag


def keep(where: str, tracking_uri: str | None, timing: Mapping[str, Any]) -> None:
    """Remember `{"device": …, "prefill_ms": {member's digest: ms}, …}`; a later one of the same device replaces it.
    `where` is a folder, or `models:/name/3` at `tracking_uri`. Raises BadInput for anything else."""
    if not is_uri(where):
        path = Path(where).expanduser() / TIMINGS_FILE
        known = _file(path) | {timing["device"]: dict(timing)}
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(known, indent=2), encoding="utf-8")
        partial.replace(path)
        return
    reference = parse(where)
    if not isinstance(reference, ModelReference) or reference.version is None or tracking_uri is None:
        raise BadInput(f"{where!r} is no registered version to keep a timing for", code="not-a-uri")
    text = json.dumps(timing, separators=(",", ":"))
    if len(text) > _LIMIT:
        raise BadInput(f"the timings of {len(timing['prefill_ms'])} policies do not fit a version's tag")
    with mlflow_client.service(tracking_uri, f"keeping the timings of {where}") as client:
        client.set_model_version_tag(reference.name, str(reference.version), _tag(timing["device"]), text)


def known(where: str, tracking_uri: str | None, device: str) -> dict[str, float] | None:
    """Member's digest -> milliseconds on that device; None where nobody timed it there. `where` as for `keep`."""
    if not is_uri(where):
        found = _file(Path(where).expanduser() / TIMINGS_FILE).get(device)
    elif tracking_uri is None or not isinstance(parse(where), ModelReference):
        return None
    else:
        text = policies.resolve(where, tracking_uri).tags.get(_tag(device))
        found = None if text is None else _read(text, where)
    return None if found is None else {digest: float(ms) for digest, ms in found["prefill_ms"].items()}


def _tag(device: str) -> str:
    return names.key(f"{names.TIMING_TAG}.{device}")


def _file(path: Path) -> dict[str, Any]:
    return _read(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}


def _read(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BadInput(f"the timings of {where} are damaged: {error}", code="wrong-form") from error
    if not isinstance(found, dict):
        raise BadInput(f"the timings of {where} are damaged: not a mapping", code="wrong-form")
    return found
