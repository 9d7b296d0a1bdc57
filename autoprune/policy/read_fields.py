"""What every document is read with: keys, words, numbers."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from autoprune.document.numbers import exact
from autoprune.document.problems import Path, Problems, shown, suggest
from autoprune.errors import Mistake


def check_keys(data: Any, path: Path, allowed: tuple[str, ...], required: tuple[str, ...], found: Problems) -> bool:
    """Whether `data` is a mapping; unknown and missing keys are added to `found`."""
    if not isinstance(data, Mapping):
        keys = f"must be a mapping with the keys {', '.join(allowed)}"
        found.add(
            path,
            "wrong-type",
            f"{keys}, not {shown(data)}" if path or data is not None else f"the document is empty: it {keys}",
        )
        return False
    meant = set()
    for key in data:
        if key not in allowed:
            hint = suggest(key, allowed)
            meant.add(hint)
            found.add(
                (*path, key), "unknown-key", f"unknown key {key!r}; allowed: {', '.join(allowed)}{hint}", key=True
            )
    for key in required:
        if key not in data and suggest(key, (key,)) not in meant:  # a misspelt key is one mistake, not two
            found.add((*path, key), "missing-key", f"the key {key!r} is missing", key=True)
    return True


def one_of(value: Any, path: Path, allowed: tuple[str, ...], found: Problems) -> bool:
    """Whether the value is one of the allowed words."""
    if isinstance(value, str) and value in allowed:
        return True
    found.add(path, "not-a-choice", f"must be one of {', '.join(allowed)}, not {shown(value)}{suggest(value, allowed)}")
    return False


def number(value: Any, path: Path, found: Problems, low: int = 0, high: int | None = 1) -> Fraction | None:
    """An exact number in [low, high]."""
    try:
        result = exact(value)
    except Mistake as error:
        found.add(path, error.code, str(error))
        return None
    if result < low or (high is not None and result > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        found.add(path, "out-of-range", f"must be {bounds}, not {shown(value)}")
        return None
    return result
