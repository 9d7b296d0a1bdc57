"""Where results go, and the one form they have: JSON, a table in markdown, a figure."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MODEL = ROOT / "examples" / "reference_vlm" / "checkpoint"

MEASURING = tuple(f"autoprune/{room}" for room in ("calibration", "measures", "models", "policy", "pruning"))
"""What a measured number depends on."""
SEARCHING = (
    *(f"autoprune/{room}" for room in ("check", "policy", "search", "spec")),
    *(f"autoprune/api/{name}.py" for name in ("profiling", "proposals", "rungs", "study", "within_reach")),
    "policies",
    "search_spaces",
)
"""What decides how a search goes, beside what it measures."""


@cache
def code(*parts: str) -> str:
    """Digest of the code and documents in these folders and files (from the root of the checkout): what was made by
    other ones is made again. Raises FileNotFoundError for a part that is not there."""
    found = hashlib.sha256()
    for path in sorted({path for part in parts for path in _files(ROOT / part)}):
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def _files(part: Path) -> list[Path]:
    if part.is_file():
        return [part]
    if not part.is_dir():
        raise FileNotFoundError(part)
    return [path for path in part.rglob("*") if path.suffix in (".py", ".yaml")]


def made_by(*parts: str) -> dict[str, Any]:
    """For every result: the parts that it came from with their digest, and the commit (None outside of a checkout);
    `dirty`: these parts were not as in the commit."""
    commit, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *parts)
    digest = {"parts": list(parts), "digest": code(*parts)}
    return {**digest, "commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was when they were written down."""
    libraries = {name: version(name) for name in ("torch", "transformers", "optuna", "numpy")}
    load = [round(value, 2) for value in os.getloadavg()]
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "load": load, "libraries": libraries}


def duration(seconds: float) -> str:
    """'50 s', '7 min', '1.5 h': as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table; numbers must be formatted already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def write(
    folder: Path,
    name: str,
    document: Mapping[str, Any],
    text: str,
    figure: Figure | None = None,
    *,
    parts: Sequence[str],
) -> list[Path]:
    """`name`.json (with what it was made by: `parts`, see `made_by`), `name`.md and `name`.png in a folder that is made
    if needed; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {**document, "made_by": made_by(*parts)}
    made = [folder / f"{name}.json", folder / f"{name}.md"]
    made[0].write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    made[1].write_text(text)
    if figure is not None:
        from autoprune.figures import save

        made.append(save(figure, folder / f"{name}.png"))
    return made
