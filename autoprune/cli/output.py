"""How results are shown: one JSON document, or tables for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.table import Table

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]


def console() -> Console:
    """For people, on stdout. In a file or pipe lines are as long as tables need."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)


def notes() -> Console:
    """For progress and remarks, on stderr: stdout stays clean for pipes and --json."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def emit(document: Any) -> None:
    """The one JSON document of a --json run."""
    (_document.get() or sys.stdout).write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


_document: ContextVar[TextIO | None] = ContextVar("document", default=None)


@contextmanager
def document_only() -> Iterator[None]:
    """Inside, stdout takes the document alone: whatever a library prints there, or writes to its descriptor, goes to
    stderr."""
    stdout = sys.stdout
    stdout.flush()
    is_process = _descriptor(stdout) == 1
    own = os.fdopen(os.dup(1), "w", encoding=stdout.encoding) if is_process else stdout
    token = _document.set(own)
    try:
        if is_process:
            os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _document.reset(token)
        if is_process:
            own.flush()
            os.dup2(own.fileno(), 1)
            own.close()


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except OSError:  # a stream in memory
        return None


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


def agreement(found: Sequence[Mapping[str, Any]], of: str) -> list[str]:
    """A line for each accuracy (and target): which measures put policies in its order."""
    from autoprune.search.agreement import FEWEST

    groups: dict[tuple[str, float | None], list[Mapping[str, Any]]] = {}
    for one in found:
        groups.setdefault((one["accuracy"], one["target"]), []).append(one)
    lines = []
    for (accuracy, target), ones in groups.items():
        n, known = ones[0]["n"], [one for one in ones if one["rho"] is not None]
        shown = ", ".join(f"{one['measure']} {one['rho']:+.2f}" for one in known)
        at = "" if target is None else f" at {number(target)}"
        why = f"too few {of}" if n < FEWEST else f"the {of} are all equal"
        lines.append(f"order of held-out {accuracy}{at} (Spearman, n = {n}): {shown or why}")
    return lines


def interval(estimate: Mapping[str, Any] | None) -> str:
    """`0.954 [0.941, 0.967]`."""
    if not estimate:
        return ""
    low, high = estimate.get("low"), estimate.get("high")
    shown = number(estimate["value"])
    return shown if low is None or high is None or low == high else f"{shown} [{number(low)}, {number(high)}]"
