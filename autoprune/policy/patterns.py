"""Patterns that a guard looks for in prompts: regular expressions that cannot be made to run for ever.

The pattern comes from a document and the prompt from a stranger. Python's `re` goes back and tries again, so what it
may have to try is counted here before it is allowed: the steps of the whole tree of choices that a pattern opens at one
place of the worst prompt. A search begins at every place of a prompt, of which only the first `READ` are looked at.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from autoprune.document.problems import shown

LONGEST = 200  # characters of a pattern
READ = 1024  # characters of a prompt that are looked at
STEPS = 100_000  # that a pattern may take from one place of a prompt; READ times that is a second or two at worst
SINGLE = ("LITERAL", "NOT_LITERAL", "ANY", "IN")  # one character
GROUP = 20  # steps that entering a group or a branch takes, as measured against a character's
MANY = STEPS + 1  # where counting stops


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
        steps, _ = _weigh(_parsed(pattern))
    except (re.error, OverflowError, RecursionError) as error:
        return f"{shown(pattern)} is not a regular expression: {error}"
    except _Refused as error:
        return f"{shown(pattern)} {error}"
    if steps > STEPS:
        return (
            f"{shown(pattern)} may have to be tried in too many ways; write fewer repeats and optional parts, and only "
            "a few characters after an open repeat, as a|b.*c has"
        )
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
    """The steps of trying all ways through items that stand one after the other, and how many ways there are."""
    steps, ways = 0, 1
    for operation, given in items:
        more, times = _one(str(operation), given)
        steps, ways = _least(steps + ways * more), _least(ways * times)
    return steps, ways


def _one(operation: str, given: Any) -> tuple[int, int]:
    if operation in SINGLE or operation == "AT":
        return 1, 1
    if operation == "SUBPATTERN":
        steps, ways = _weigh(given[-1])
        return GROUP + steps, ways
    if operation == "BRANCH":
        branches = [_weigh(branch) for branch in given[1]]
        return sum(GROUP + steps for steps, _ in branches), sum(ways for _, ways in branches)
    if operation not in ("MAX_REPEAT", "MIN_REPEAT"):
        raise _Refused("looks around or back; a prompt pattern has characters, classes, groups, | and repeats only")
    least, most, inner = given
    single = len(inner) == 1 and str(inner[0][0]) in SINGLE
    if most == re._constants.MAXREPEAT:  # type: ignore[attr-defined]
        if not single:
            raise _Refused("repeats a group without end; only a single character may be")
        most = max(int(least), READ)
    steps, ways = _weigh(inner)
    return _repeated(steps if single else GROUP + steps, ways, int(least), int(most))


def _repeated(steps: int, ways: int, least: int, most: int) -> tuple[int, int]:
    """Between `least` and `most` rounds one after the other; every number of them is a way out."""
    tried, out, into = 0, 0, 1
    for number in range(most + 1):
        if number >= least:
            out = _least(out + into)
        if number == most or tried >= MANY:
            break
        tried, into = _least(tried + into * steps), _least(into * ways)
    return tried, max(out, 1)


def _least(number: int) -> int:
    """Saturated: only whether it is too many matters."""
    return min(number, MANY)
