"""The paths that a spec writes, held against where they may lead (docs/security.md)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from autoprune.document.paths import followed
from autoprune.document.problems import Path as KeyPath
from autoprune.errors import Mistake
from autoprune.spec.models import Spec

SQLITE = re.compile(r"sqlite(?:\+\w+)?:///")  # what follows is a file's path


def astray(spec: Spec, folder: Path, broken: Collection[KeyPath]) -> Iterator[tuple[KeyPath, Mistake]]:
    """The spec's own paths that lead where they may not, and why."""
    output, calibration = spec.output, spec.calibration
    named = isinstance(spec.search_space, str) and is_path(spec.search_space)
    paths: dict[KeyPath, str | None] = {
        ("model", "path"): spec.model.path,
        ("calibration", "records"): None if calibration.records.startswith("datasets:") else calibration.records,
        ("calibration", "images"): calibration.images,
        ("search_space",): str(spec.search_space) if named else None,
        ("objectives",): spec.objectives if isinstance(spec.objectives, str) and is_path(spec.objectives) else None,
        ("output", "store"): _file(output.store),
        ("output", "tracking_uri"): _file(output.tracking_uri),
    }
    for key, text in paths.items():
        if text is None or any(key[: len(wrong)] == wrong for wrong in broken):
            continue
        try:
            _refuse_uri(key, text)
            followed(text, folder)
        except Mistake as mistake:
            yield key, mistake


def _file(url: str | None) -> str | None:
    """The file of an SQLite URL."""
    found = SQLITE.match(url or "")
    return None if found is None or url is None else url[found.end() :].partition("?")[0]


def _refuse_uri(key: KeyPath, text: str) -> None:
    """SQLite reads `file:` its own way (relative to the current folder, `%2e` for a dot), so no check of ours would
    hold for it. Raises Mistake."""
    if key[0] == "output" and text.startswith("file:"):
        raise Mistake("not-a-path", f"a spec names an SQLite file by its path, not by a URI: {text!r}")


def is_path(text: str) -> bool:
    """Whether a document is named by its path, rather than by a name of the catalog."""
    return text.endswith((".yaml", ".yml")) or "/" in text
