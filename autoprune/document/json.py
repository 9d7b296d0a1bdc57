"""JSON that is plain data: no NaN or infinity, no number that a database or a float cannot take."""

from __future__ import annotations

import json
from typing import Any

from autoprune.document.yaml import DIGITS
from autoprune.errors import Mistake


def parse_json(text: str | bytes) -> Any:
    """The document. Raises Mistake, `offset` at the character that is wrong where that is known."""
    try:
        return json.loads(text, parse_constant=_no_number, parse_int=_whole)
    except json.JSONDecodeError as error:
        raise Mistake("not-json", f"not valid JSON: {error.msg}", error.pos) from error
    except UnicodeDecodeError as error:
        raise Mistake("not-utf8", "not valid UTF-8", error.start) from error
    except RecursionError as error:
        raise Mistake("too-deep", "nested too deeply") from error


def _no_number(word: str) -> Any:
    raise Mistake("not-finite", f"{word} is not a finite number")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS + 1:  # a sign
        raise Mistake("out-of-range", f"{digits[:DIGITS]}… has too many digits")
    return int(digits)
