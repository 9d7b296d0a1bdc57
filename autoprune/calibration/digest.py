"""What a calibration set contains, as one hash: two sets with equal content are equal wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from autoprune.calibration.records import Record


def image_digest(path: str) -> str:
    """SHA-256 of an image file's bytes; read again only when its size or modification time changed."""
    status = Path(path).stat()
    return _hashed(path, status.st_size, status.st_mtime_ns)


def record_digest(record: Record) -> str:
    """SHA-256 of what a record asks and expects: image bytes, prompt, answer, type. Neither its id nor its paths."""
    content = {
        "images": [image_digest(path) for path in record.images],
        "prompt": record.prompt,
        "prompt_raw": record.prompt_raw,
        "answer": record.answer,
        "type": record.type,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def calibration_digest(records: Sequence[Record]) -> str:
    """SHA-256 of a set of records, whatever their order (splits do not depend on the order either)."""
    lines = sorted(record_digest(record) for record in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@cache
def _hashed(path: str, size: int, modified: int) -> str:
    """`size` and `modified` are the cache's key, not inputs."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
