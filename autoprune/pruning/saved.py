"""A policy as plain files: the document, what it was made for, and the front it was selected from.

`metadata.json` holds the digests of the other two, so a file that was changed or swapped afterwards is not taken for
what was measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.document.json import parse_json
from autoprune.document.paths import own_file
from autoprune.document.yaml import read
from autoprune.errors import BadInput, Mistake
from autoprune.models.fingerprint import Fingerprint
from autoprune.policy.document import Policy
from autoprune.policy.front import SCHEMA as FRONT_SCHEMA
from autoprune.policy.front import Front
from autoprune.pruning.lookup import RegisteredParts

if TYPE_CHECKING:
    from autoprune.document.yaml import Source

POLICY_FILE, METADATA_FILE, FRONT_FILE = "policy.yaml", "metadata.json", "front.json"
SCHEMA = "autoprune/saved-policy/1"


@dataclass(frozen=True)
class Saved:
    """What a folder holds."""

    policy: Policy
    fingerprint: Fingerprint | None
    metadata: Mapping[str, Any]
    front: Front | None
    source: Source | None = None


def write_folder(folder: Path, saved: Saved) -> None:
    """Write the files, the metadata last: a folder that is interrupted on the way is refused, never misread."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {POLICY_FILE: saved.policy.to_yaml()}
    if saved.front is not None:
        written[FRONT_FILE] = _json(saved.front.to_json())
    content = {
        "schema": SCHEMA,
        **{_digest_key(name): _sha256(text.encode()) for name, text in written.items()},
        "fingerprint": None if saved.fingerprint is None else asdict(saved.fingerprint),
        "metadata": dict(saved.metadata),
    }
    for name, text in {**written, METADATA_FILE: _json(content)}.items():
        partial = folder / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)


def read_folder(folder: Path) -> Saved:
    """Raises BadInput for files that are missing, corrupt or not those that were written together."""
    try:
        for name in (POLICY_FILE, METADATA_FILE, FRONT_FILE):
            own_file(folder, name)
    except Mistake as error:
        raise BadInput(str(error), code=error.code) from error
    if not (folder / POLICY_FILE).is_file():
        raise BadInput(f"{folder} has no {POLICY_FILE}: not a saved policy", code="not-a-policy")
    content = _metadata(folder / METADATA_FILE)
    document = read(folder / POLICY_FILE)
    policy = Policy.from_source(document, RegisteredParts())
    if _sha256((folder / POLICY_FILE).read_bytes()) != content["policy_sha256"]:
        raise BadInput(
            f"{folder / POLICY_FILE} was changed after it was saved, so {METADATA_FILE} no longer describes it; "
            f"load the file itself to use it without measurements",
            code="not-a-policy",
        )
    given = content["fingerprint"]
    try:
        fingerprint = None if given is None else Fingerprint(**given)
    except TypeError as error:
        raise BadInput(f"{folder / METADATA_FILE}: fingerprint: {error}", code="not-a-policy") from error
    front = _front(folder / FRONT_FILE, content.get(_digest_key(FRONT_FILE)))
    return Saved(policy, fingerprint, content["metadata"], front, document)


def digest_of(folder: Path) -> str:
    """One SHA-256 over a saved policy's files: what it is, wherever it lies."""
    there = {name: folder / name for name in (POLICY_FILE, METADATA_FILE, FRONT_FILE)}
    parts = {name: _sha256(path.read_bytes()) for name, path in there.items() if path.is_file()}
    return _sha256(json.dumps(parts, sort_keys=True).encode())


def _front(path: Path, expected: str | None) -> Front | None:
    """The front beside a policy; a front and its digest are there together or not at all."""
    if expected is None and not path.is_file():
        return None
    if expected is None:
        raise BadInput(f"{path} is not part of this policy: {METADATA_FILE} knows of none", code="not-a-front")
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"{path} is missing, and {METADATA_FILE} says that it was saved", code="not-a-front") from error
    if _sha256(raw) != expected:
        raise BadInput(
            f"{path} was changed after it was saved, so nothing in it can be taken for measured", code="not-a-front"
        )
    try:
        content = parse_json(raw)
    except Mistake as error:
        raise BadInput(f"{path} is corrupt: {error}", code="not-a-front") from error
    if not isinstance(content, dict) or content.get("schema") != FRONT_SCHEMA:
        raise BadInput(f"{path} is not a front ({FRONT_SCHEMA})", code="not-a-front")
    try:
        return Front.from_json(content)
    except BadInput as error:
        raise BadInput(f"{path}: {error}", code="not-a-front") from error


def _metadata(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise BadInput(
            f"{path} is missing; load the policy file itself to use it without measurements", code="not-a-policy"
        ) from error
    except (OSError, Mistake) as error:
        raise BadInput(f"{path} is corrupt: {error}", code="not-a-policy") from error
    known = {"schema", "policy_sha256", "fingerprint", "metadata"}
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not known <= content.keys():
        raise BadInput(f"{path} is not the metadata of a saved policy ({SCHEMA})", code="not-a-policy")
    if not isinstance(content["metadata"], dict) or not isinstance(content["fingerprint"], dict | None):
        raise BadInput(f"{path} is corrupt: fingerprint and metadata must be mappings", code="not-a-policy")
    return content


def _digest_key(name: str) -> str:
    return f"{name.partition('.')[0]}_sha256"


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
