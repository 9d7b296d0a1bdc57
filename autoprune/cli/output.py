"""How results are shown: one JSON document, or tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]


def console() -> Console:
    """For people, on stdout. In a file or pipe lines are as long as tables need."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def notes() -> Console:
    """For progress and remarks, on stderr: stdout stays clean for pipes and --json."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def emit(document: Any) -> None:
    """The one JSON document of a --json run."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A plain table; numbers are right-aligned by their text."""
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        made.add_column(column, no_wrap=i < 2)
    for row in rows:
        made.add_row(*("" if cell is None else str(cell) for cell in row))
    return made


def number(value: float | None) -> str:
    """A measure for people: four significant digits, thousands grouped."""
    if value is None:
        return ""
    if abs(value) >= 1e5:
        for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= scale:
                return f"{value / scale:.4g}{unit}"
    return f"{value:.4g}"


def interval(estimate: Mapping[str, Any] | None) -> str:
    """`0.954 [0.941, 0.967]`."""
    if not estimate:
        return ""
    low, high = estimate.get("low"), estimate.get("high")
    shown = number(estimate["value"])
    return shown if low is None or high is None or low == high else f"{shown} [{number(low)}, {number(high)}]"
