"""`90s`, `30m`, `3h`, `1.5d`, `1h30m` -> seconds."""

from __future__ import annotations

import re

from autoprune.errors import Mistake

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: object) -> float:
    """Seconds of a duration; a bare number is seconds. Raises ValueError with the forms that are allowed."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Mistake("not-a-duration", f"{value!r} is not a duration; write 90s, 30m, 3h or 1h30m")
    if isinstance(value, int | float):
        total = float(value)
    else:
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", value)
        if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*([smhd])", "", value).strip():
            raise Mistake("not-a-duration", f"'{value}' is not a duration; write 90s, 30m, 3h or 1h30m")
        total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < total < float("inf"):
        raise Mistake("not-a-duration", f"'{value}' is not a positive duration")
    return total
