"""Exact numbers in documents."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from autoprune.errors import Mistake

_NUMBER = re.compile(r"[-+]?(?:[0-9]+/[0-9]+|(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)")
_SHORT = 10**6
_LONGEST = 100  # characters
_LARGEST = 30  # powers of ten


def exact(value: object) -> Fraction:
    """The number a user wrote: an int, a float (by its shortest form: .33 is 33/100), or text like '1/6' and '.33'.

    Raises ValueError with a message for the user otherwise.
    """
    if isinstance(value, Fraction):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Mistake("not-a-number", f"must be a number like 0.25 or 1/4, not {value!r}")
    if isinstance(value, int):
        return Fraction(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Mistake("not-finite", f"must be a finite number, not {value!r}")
        return Fraction(repr(value))
    text = value.strip()
    if not _NUMBER.fullmatch(text):
        hint = "; write a percentage as a fraction" if text.endswith("%") else ""
        raise Mistake("not-a-number", f"must be a number like 0.25 or 1/4, not {value!r}{hint}")
    if len(text) > _LONGEST:
        raise Mistake("out-of-range", f"{value[:_LONGEST]!r}… has too many digits")
    if re.fullmatch(r".*/0+", text):
        raise Mistake("not-a-number", f"{value!r} divides by zero")
    if abs(int((re.findall(r"[eE]([-+]?[0-9]+)", text) or ["0"])[0])) > _LARGEST:
        raise Mistake("out-of-range", f"{value!r} is out of range")
    return Fraction(text)


def text(number: Fraction) -> int | float | str:
    """The number as documents write it; `exact` gives it back. Whole numbers as int, decimals of at most six places as
    float (its shortest form is exact), everything else as 'p/q'."""
    if number.denominator == 1:
        return number.numerator
    if _SHORT % number.denominator == 0 and abs(number) < _SHORT:
        return float(number)
    return f"{number.numerator}/{number.denominator}"
