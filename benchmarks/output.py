"""Where results go, and the one form they have: JSON, a table in markdown, a figure."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MODEL = ROOT / "examples" / "reference_vlm" / "checkpoint"


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


def write(folder: Path, name: str, document: Mapping[str, Any], text: str, figure: Figure | None = None) -> list[Path]:
    """`name`.json, `name`.md and `name`.png in a folder that is made if needed; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [folder / f"{name}.json", folder / f"{name}.md"]
    made[0].write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    made[1].write_text(text)
    if figure is not None:
        from autoprune.figures import save

        made.append(save(figure, folder / f"{name}.png"))
    return made
