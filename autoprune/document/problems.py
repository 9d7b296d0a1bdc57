"""Mistakes in documents: collected, positioned, and reported all at once."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args, get_origin

from autoprune.errors import BadInput, Located

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    from autoprune.codes import Code
    from autoprune.document.yaml import Source

Path = tuple[str | int, ...]


def dotted(path: Path) -> str:
    """`('stages', 0, 'keep')` -> `stages[0].keep`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def suggest(word: object, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` if one of the allowed words is close, else nothing."""
    near = difflib.get_close_matches(str(word), list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def shown(value: object, limit: int = 60) -> str:
    """The value as a message shows it: its repr, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


@dataclass(frozen=True)
class Problem:
    """One mistake at a key path, not yet positioned. `key` points at the key; `offset` into the text value."""

    path: Path
    code: Code
    message: str
    key: bool = False
    offset: int = 0


class Problems:
    """Collects mistakes; true if there are any."""

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self.items: list[Problem] = list(problems)

    def add(self, path: Path, code: Code, message: str, *, key: bool = False, offset: int = 0) -> None:
        self.items.append(Problem(path, code, message, key, offset))

    def extend(self, problems: Iterable[Problem]) -> None:
        self.items.extend(problems)

    def __bool__(self) -> bool:
        return bool(self.items)

    def __iter__(self) -> typing.Iterator[Problem]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def located(self, source: Source | None) -> list[Located]:
        """Every mistake once, by position; without a source they stand in line 1 of '<data>'."""
        found = [
            source.problem(p.path, p.code, p.message, key=p.key, offset=p.offset)
            if source is not None
            else Located("<data>", 1, 1, dotted(p.path), p.code, p.message)
            for p in self.items
        ]
        return sorted(dict.fromkeys(found), key=lambda p: (p.line, p.column))

    def raise_for(self, source: Source | None) -> None:
        """Raise BadInput with all mistakes, if there are any."""
        if not self.items:
            return
        located = self.located(source)
        if source is None:
            raise BadInput(
                "\n".join(f"{p.path}: {p.message}" if p.path else p.message for p in located), problems=located
            )
        raise BadInput(problems=located)


def from_pydantic(
    error: ValidationError,
    prefix: Path = (),
    *,
    model: type[BaseModel] | None = None,
    allowed: Sequence[str] = (),
    data: Any = None,
) -> list[Problem]:
    """Pydantic's findings in our words.

    `model` (or `allowed`) gives the keys for did-you-mean. `data` (what was validated) removes from each path the names
    that pydantic adds for union members and validators, so that the position is right.
    """
    found = []
    for item in error.errors(include_url=False):
        path = item["loc"] if data is None else _real(item["loc"], data, missing=item["type"] == "missing")
        keys = _fields(model, path[:-1]) if model is not None else allowed
        offset = getattr(item.get("ctx", {}).get("error"), "offset", 0)
        code = _code(item)
        message, at_key = _message(item, path, keys, item.get("input") if data is None else _written(data, path, item))
        found.append(Problem((*prefix, *path), code, message, at_key, offset))
    found = _one_each(found)
    misspelt = {(*p.path[:-1], near) for p in found if (near := meant(p)) is not None}
    return [p for p in found if not (p.path in misspelt and p.code == "missing-key")]


def _one_each(found: Sequence[Problem]) -> list[Problem]:
    """One mistake for each value: what the members of a union say about it, joined; nothing of a member that wants
    another kind of value where one goes on to what is wrong inside it."""
    around = {p.path[:n] for p in found for n in range(len(p.path))}
    found = [p for p in found if p.key or p.path not in around]
    single: dict[tuple[Path, bool], Problem] = {}
    for p in dict.fromkeys(found):
        before = single.get((p.path, p.key))
        if before is None:
            single[p.path, p.key] = p
            continue
        head, mark, given = before.message.rpartition(", not ")
        same = mark and p.message.endswith(mark + given)
        joined = f"{head} or {p.message}" if same else f"{before.message}; or {p.message}"
        single[p.path, p.key] = Problem(p.path, before.code, joined, p.key, before.offset)
    return list(single.values())


def meant(problem: Problem) -> str | None:
    """The key that an unknown one was taken for."""
    _, mark, tail = problem.message.rpartition("; did you mean ")
    return tail.strip("?'") if mark and problem.code == "unknown-key" else None


_CODES: Mapping[str, Code] = {
    "extra_forbidden": "unknown-key",
    "missing": "missing-key",
    "literal_error": "not-a-choice",
    "enum": "not-a-choice",
    "string_pattern_mismatch": "wrong-form",
    "string_too_short": "empty-value",
    "too_short": "empty-value",
    "finite_number": "not-finite",
}
_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "too_long", "multiple_of")


def _code(item: Mapping[str, Any]) -> Code:
    """What kind of mistake one of pydantic's findings is."""
    kind = item["type"]
    if kind == "value_error":
        code: Code = getattr(item.get("ctx", {}).get("error"), "code", "conflict")
        return code
    if kind == "literal_error" and item["loc"][-1:] == ("schema",):
        return "wrong-schema"
    return "out-of-range" if kind in _BOUNDS else _CODES.get(kind, "wrong-type")


def _written(data: Any, path: Path, item: Mapping[str, Any]) -> Any:
    """The value as it stands in the document where pydantic shows an equal one: 0 for its 0.0."""
    given, here = item.get("input"), data
    try:
        for step in path:
            here = here[step]
    except (KeyError, IndexError, TypeError):
        return given
    return here if here == given and not isinstance(here, bool) else given


def _message(item: Mapping[str, Any], path: Path, allowed: Sequence[str], given: Any) -> tuple[str, bool]:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        list_of = f"; allowed: {', '.join(allowed)}" if allowed else ""
        return f"unknown key {path[-1]!r}{list_of}{suggest(path[-1], allowed)}", True
    if kind == "missing":
        return f"the key {path[-1]!r} is missing", True
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", item["msg"])), False
    if kind in ("literal_error", "enum"):
        words = str(context["expected"])
        hint = suggest(given, [w.strip("'") for w in words.replace(" or ", ", ").split(", ")])
        return f"must be {words}, not {shown(given)}{hint}", False
    message = item["msg"].removeprefix("Input ")
    return f"{message[0].lower()}{message[1:]}, not {shown(given)}", False


def _real(loc: Path, data: Any, missing: bool) -> Path:
    """`loc` without the steps that are not keys or indices of `data`; the last step of a missing key is kept."""
    path: list[str | int] = []
    here = data
    for number, step in enumerate(loc):
        is_key = isinstance(here, Mapping) and step in here
        is_item = isinstance(here, list | tuple) and isinstance(step, int) and step < len(here)
        if is_key or is_item:
            here = here[step]
            path.append(step)
        elif missing and number == len(loc) - 1 and isinstance(here, Mapping):
            path.append(step)
    return tuple(path)


def _fields(model: type[BaseModel], path: Path) -> tuple[str, ...]:
    """The keys of the model that stands at `path` inside `model`, as users write them."""
    here: list[Any] = [model]
    for step in path:
        here = [inner for kind in here for inner in _inside(kind, step)]
    return tuple(field.alias or name for kind in here if _is_model(kind) for name, field in kind.model_fields.items())


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "model_fields")


def _inside(kind: Any, step: str | int) -> list[Any]:
    if _is_model(kind):
        fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
        return _flat(fields.get(str(step)))
    arguments = get_args(kind)
    if get_origin(kind) in (dict, Mapping) and len(arguments) == 2:
        return _flat(arguments[1])
    return [inner for argument in arguments if argument is not Ellipsis for inner in _flat(argument)]


def _flat(kind: Any) -> list[Any]:
    if get_origin(kind) in (typing.Union, types.UnionType):
        return [inner for member in get_args(kind) for inner in _flat(member)]
    if get_origin(kind) is typing.Annotated:
        return _flat(get_args(kind)[0])
    return [kind]
