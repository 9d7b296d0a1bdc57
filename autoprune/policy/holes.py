"""Holes: how a search space leaves a value open, and how a fixed policy is refused one.

`$name` (also inside `llm:$name`), an inline `{float: [a, b]}`, `{int: …}`, `{choice: …}`, `{layer: …}` or
`{weights: […]}`, and `solve` for the one number that follows from the budget.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from autoprune.document.problems import Path

HoleKind = Literal["float", "int", "choice", "layer", "weights"]
HOLE_KINDS: tuple[HoleKind, ...] = ("float", "int", "choice", "layer", "weights")
REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class Hole:
    """An open value at `path`: a reference (`name`), an inline definition (`kind`), or `solve`."""

    path: Path
    name: str | None = None
    kind: HoleKind | None = None
    value: Any = None
    offset: int = 0

    @property
    def solve(self) -> bool:
        return self.name is None and self.kind is None


def inline_kind(value: Any) -> HoleKind | None:
    """The kind of an inline hole, or None if the value is none."""
    if not isinstance(value, Mapping):
        return None
    for kind in HOLE_KINDS:
        if isinstance(value.get(kind), list) and set(value) <= {kind, "log"}:
            return kind
    return None


def holes(value: Any, path: Path = ()) -> Iterator[Hole]:
    """Every hole in a document's tree, in the order in which they are written. Does not look inside inline holes."""
    if isinstance(value, str):
        if found := REFERENCE.search(value):
            yield Hole(path, name=found[1], offset=found.start())
        elif value == "solve" and ("keep" in path or "curve" in path):
            yield Hole(path)
    elif (kind := inline_kind(value)) is not None:
        yield Hole(path, kind=kind, value=value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from holes(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from holes(inner, (*path, i))


def shown_hole(hole: Hole) -> str:
    if hole.solve:
        return "solve"
    return f"${hole.name}" if hole.name is not None else f"{{{hole.kind}: …}}"
