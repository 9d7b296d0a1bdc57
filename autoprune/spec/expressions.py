"""The two small languages of a spec: `minimize prefill_flops` and `exact_match >= 0.97 * baseline`.

Errors carry the character offset inside the text, so a message can point into the scalar.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from autoprune.codes import Code
from autoprune.document.problems import suggest
from autoprune.errors import Mistake
from autoprune.ports import MeasureRequest
from autoprune.spec.goals import Constraint, Direction, Objective

_DIRECTIONS: tuple[Direction, ...] = ("minimize", "maximize")
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TOKEN = re.compile(rf"\s*(?:(?P<number>{_NUMBER})|(?P<word>[A-Za-z_][A-Za-z_0-9]*)|(?P<op><=|>=|==|<|>|=|[*%+\-±]))")
_FORMS = "MEASURE >= NUMBER, NUMBER * baseline, baseline ± NUMBER % or baseline ± NUMBER points (also <=)"


class ExpressionError(Mistake):
    """A goal that cannot be read; `offset` is the character where it goes wrong, `measure` what was named before it."""

    def __init__(self, code: Code, message: str, offset: int = 0) -> None:
        super().__init__(code, message, offset)
        self.measure: MeasureRequest | None = None


def request(name: str, options: Mapping[str, Any] | None = None) -> MeasureRequest:
    """A measure under the label it carries in results: its name, with the options where there are any."""
    options = dict(options or {})
    shown = ", ".join(f"{k}={_shown(v)}" for k, v in sorted(options.items()))
    return MeasureRequest(name, options, f"{name}({shown})" if options else name)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "/".join(f"{key}:{weight}" for key, weight in value.items())
    return "/".join(str(v) for v in value) if isinstance(value, list | tuple) else str(value)


def parse_objective(value: Any) -> Objective:
    """`minimize M`, `{minimize: M}` or `{minimize: {M: {option: …}}}`; raises ExpressionError."""
    if isinstance(value, str):
        words = value.split()
        if len(words) != 2 or words[0] not in _DIRECTIONS:
            hint = suggest(words[0], _DIRECTIONS) if words else ""
            raise ExpressionError(
                "not-an-objective",
                f"'{value}' is not an objective; write 'minimize MEASURE' or 'maximize MEASURE'{hint}",
            )
        return Objective(request(words[1]), "minimize" if words[0] == "minimize" else "maximize")
    if isinstance(value, Mapping) and len(value) == 1:
        direction, what = next(iter(value.items()))
        if direction in _DIRECTIONS:
            known: Direction = "minimize" if direction == "minimize" else "maximize"
            if isinstance(what, str):
                return Objective(request(what), known)
            if isinstance(what, Mapping) and len(what) == 1:
                name, options = next(iter(what.items()))
                if isinstance(options, Mapping):
                    return Objective(request(str(name), options), known)
        else:
            raise ExpressionError(
                "not-an-objective",
                f"'{direction}' is not a direction: minimize or maximize{suggest(str(direction), _DIRECTIONS)}",
            )
    raise ExpressionError(
        "not-an-objective", "an objective is 'minimize MEASURE' or {minimize: {MEASURE: {option: value}}}"
    )


class _Reader:
    """The tokens of one constraint, each with its offset."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if match is None:
                start = at + len(text[at:]) - len(text[at:].lstrip())
                raise ExpressionError(
                    "not-a-constraint", f"'{text[start]}' is not understood in a constraint; write {_FORMS}", start
                )
            kind = str(match.lastgroup)
            self.tokens.append((kind, match.group(kind), match.start(kind)))
            at = match.end()

    def take(self, kind: str, expected: str) -> tuple[str, int]:
        if not self.tokens:
            raise ExpressionError(
                "not-a-constraint", f"the constraint ends where {expected} should stand; write {_FORMS}", len(self.text)
            )
        found, value, offset = self.tokens.pop(0)
        if found != kind:
            raise ExpressionError(
                "not-a-constraint", f"'{value}' stands where {expected} should; write {_FORMS}", offset
            )
        return value, offset

    def peek(self) -> tuple[str, str]:
        return (self.tokens[0][0], self.tokens[0][1]) if self.tokens else ("end", "")


def parse_constraint(text: str) -> Constraint:
    """Read `M (<=|>=) bound`; raises ExpressionError with the offset of the first thing that is wrong."""
    reader = _Reader(text)
    name, _ = reader.take("word", "a measure")
    try:
        return _compared(text, request(name), reader)
    except ExpressionError as error:
        error.measure = request(name)
        raise


def _compared(text: str, measure: MeasureRequest, reader: _Reader) -> Constraint:
    op, at = reader.take("op", "<= or >=")
    if op not in ("<=", ">="):
        raise ExpressionError("not-a-constraint", f"'{op}' is not a comparison here; use <= or >=", at)
    scale, shift = _bound(reader)
    if reader.tokens:
        raise ExpressionError(
            "not-a-constraint", f"'{reader.tokens[0][1]}' is left over; write {_FORMS}", reader.tokens[0][2]
        )
    if not (math.isfinite(scale) and math.isfinite(shift)):
        raise ExpressionError("not-finite", "the bound is not a finite number", at)
    return Constraint(" ".join(text.split()), measure, "<=" if op == "<=" else ">=", scale, shift)


def _bound(reader: _Reader) -> tuple[float, float]:
    """-> (scale, shift) of `scale * baseline + shift`."""
    kind, value = reader.peek()
    if kind == "op" and value == "-":
        reader.take("op", "a bound")
        number, _ = reader.take("number", "a number")
        return 0.0, -float(number)
    if kind == "number":
        number, _ = reader.take("number", "a number")
        if reader.peek() != ("op", "*"):
            return 0.0, float(number)
        reader.take("op", "*")
        _baseline(reader)
        return float(number), 0.0
    _baseline(reader)
    if not reader.tokens:
        return 1.0, 0.0
    sign, at = reader.take("op", "+ or -")
    if sign not in ("+", "-", "±"):
        raise ExpressionError("not-a-constraint", f"'{sign}' cannot follow baseline; use + or -", at)
    if sign == "±":
        raise ExpressionError(
            "not-a-constraint", "a bound has one side: write '-' for at most so much lost, '+' for so much more", at
        )
    number, _ = reader.take("number", "a number")
    amount = float(number) if sign == "+" else -float(number)
    unit = reader.tokens.pop(0) if reader.tokens else ("end", "", len(reader.text))
    if unit[1] == "%":
        return 1.0 + amount / 100.0, 0.0
    if unit[1] in ("point", "points"):
        return 1.0, amount / 100.0
    raise ExpressionError(
        "wrong-unit",
        "say in which unit: 'baseline - 3 %' (relative) or 'baseline - 3 points' (absolute, of 100)",
        unit[2],
    )


def _baseline(reader: _Reader) -> None:
    word, at = reader.take("word", "a number or 'baseline'")
    if word != "baseline":
        raise ExpressionError(
            "not-a-constraint", f"'{word}' is not a number or 'baseline'{suggest(word, ['baseline'])}", at
        )


def uses_points(text: str) -> bool:
    """Whether the constraint speaks of points, which only measures in [0, 1] have."""
    return re.search(r"\bpoints?\s*$", text.strip()) is not None
