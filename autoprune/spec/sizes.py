"""`2GiB`, `500 MB`, `1.5G`, bytes as a number -> bytes."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Literal

from autoprune.errors import Mistake

_POWERS = ("", "k", "m", "g", "t")
PATTERN = r"^\s*(\d+(\.\d+)?)\s*([kKmMgGtT]?)((?<=[kKmMgGtT])i)?[bB]?\s*$"


def size(value: str | int) -> int:
    """Bytes of a size; KiB, MiB, … are powers of 1024, KB, MB, … and the bare letters of 1000. Raises ValueError."""
    if isinstance(value, str) and (found := re.fullmatch(PATTERN, value)):
        number, _, unit, binary = found.groups()
        return int(float(number) * (1024 if binary else 1000) ** _POWERS.index(unit.lower()))
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise Mistake("not-a-size", f"{value!r} is not a size; write 2GiB, 500MiB or a number of bytes")


def cache_size(value: object) -> int | Literal["auto"]:
    """`auto`, `false` (0), or a size. Raises ValueError."""
    if value == "auto":
        return "auto"
    if value is False:
        return 0
    if isinstance(value, str | int):
        with suppress(ValueError):
            return size(value)
    raise Mistake("not-a-size", f"{value!r} is not the size of a cache; write 2GiB, auto, or false for none")
