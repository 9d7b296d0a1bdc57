"""Patterns that a guard looks for in prompts: regular expressions that cannot be made to run for ever.

The pattern comes from a document and the prompt from a stranger. Python's `re` goes back and tries again, so what it
may have to try is bounded here, by what the pattern says: at most one open repeat (`.*`) along any way through it, of a
single character, and few choices beside it. What is left takes time in proportion to the square of the text at most.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from autoprune.document.problems import shown

LONGEST = 200  # characters of a pattern
READ = 8192  # characters of a prompt that are looked at
CHOICES = 1000  # ways through a pattern


class _Refused(Exception):
    """What a pattern may not have."""


def why_not(pattern: object) -> str | None:
    """Why this cannot be a pattern; None where it can."""
    if not isinstance(pattern, str) or not pattern:
        return f"a prompt pattern is a regular expression, not {shown(pattern)}"
    if len(pattern) > LONGEST:
        return f"a prompt pattern has at most {LONGEST} characters, this one {len(pattern)}"
    try:
        re.compile(pattern)
        opened, choices = _weigh(_parsed(pattern))
    except (re.error, OverflowError, RecursionError) as error:
        return f"{shown(pattern)} is not a regular expression: {error}"
    except _Refused as error:
        return f"{shown(pattern)} {error}"
    if opened > 1:
        return f"{shown(pattern)} has {opened} open repeats one after the other; one is allowed, as a|b.*c has"
    if choices > CHOICES:
        return f"{shown(pattern)} has too many ways through it ({choices}); write fewer optional parts"
    return None


def matches(pattern: str, prompt: str) -> bool:
    """Whether the pattern is found in the prompt's first characters."""
    return _compiled(pattern).search(prompt[:READ]) is not None


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _parsed(pattern: str) -> Any:
    """The library's own reading of a pattern: pairs of an operation and what belongs to it."""
    return re._parser.parse(pattern)  # type: ignore[attr-defined]


def _weigh(items: Any) -> tuple[int, int]:
    """How many open repeats and how many choices stand one after the other, at most, on a way through."""
    opened, choices = 0, 1
    for operation, given in items:
        more, times = _one(str(operation), given)
        opened, choices = opened + more, min(choices * times, 10**9)
    return opened, choices


def _one(operation: str, given: Any) -> tuple[int, int]:
    if operation in ("LITERAL", "NOT_LITERAL", "ANY", "IN", "AT", "RANGE", "CATEGORY"):
        return 0, 1
    if operation == "SUBPATTERN":
        return _weigh(given[-1])
    if operation == "BRANCH":
        branches = [_weigh(branch) for branch in given[1]]
        return max(opened for opened, _ in branches), sum(choices for _, choices in branches)
    if operation not in ("MAX_REPEAT", "MIN_REPEAT"):
        raise _Refused("looks around or back; a prompt pattern has characters, classes, groups, | and repeats only")
    least, most, inner = given
    single = len(inner) == 1 and str(inner[0][0]) in ("LITERAL", "NOT_LITERAL", "ANY", "IN")
    if most == re._constants.MAXREPEAT:  # type: ignore[attr-defined]
        if not single:
            raise _Refused("repeats a group without end; only a single character may be")
        return 1, 1
    opened, choices = _weigh(inner)
    if opened and most > 1:
        raise _Refused("repeats an open repeat")
    return opened, (choices ** min(int(most), 32)) * (int(most) - int(least) + 1)
