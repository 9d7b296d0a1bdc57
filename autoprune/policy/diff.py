"""What differs between two policies, by key path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.document.problems import Path, dotted

if TYPE_CHECKING:
    from autoprune.policy.document import Policy


@dataclass(frozen=True)
class Change:
    """`before` or `after` is None where the value is absent on that side."""

    path: str
    before: Any
    after: Any


def diff(a: Policy, b: Policy) -> list[Change]:
    """Every value that differs, in the order of the documents. Equal policies give an empty list."""
    return [Change(dotted(path), before, after) for path, before, after in _changes(a.dump(), b.dump(), ())]


def _changes(a: Any, b: Any, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            yield from _changes(a.get(key), b.get(key), (*path, key))
    elif isinstance(a, list) and isinstance(b, list):
        for i in range(max(len(a), len(b))):
            yield from _changes(a[i] if i < len(a) else None, b[i] if i < len(b) else None, (*path, i))
    elif a != b or type(a) is not type(b):
        yield path, a, b
