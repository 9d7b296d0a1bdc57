"""YAML with a position for every key and value.

YAML 1.2's idea of scalars: only `true` and `false` are booleans (`on`, `off`, `yes`, `no` are words), `1e-3` is a
number; a date, `12:30` or `007` is text. Anchors work; merge keys (`<<`) do not exist.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml as pyyaml

from autoprune.codes import Code
from autoprune.document.problems import Path as KeyPath
from autoprune.document.problems import dotted, shown
from autoprune.errors import BadInput, Located

MAX_NODES = 100_000
DIGITS = 18  # whole numbers that every reader, database and float takes
MAX_CHARACTERS = 2**19  # the parser is slow: what is longer is no document
_TAG = "tag:yaml.org,2002:"
_ESCAPE = {"x": 4, "u": 6, "U": 10}


class _Loader(pyyaml.SafeLoader):
    """SafeLoader's scanner, parser and composer with YAML 1.2's plain scalars."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own attribute


def _plain(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(_TAG + tag, re.compile(f"^(?:{pattern})$"), list(first))


_plain("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_plain("int", r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789")
_plain("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?", "-+.0123456789")
_plain("float", r"[-+]?[0-9]+[eE][-+]?[0-9]+", "-+0123456789")
_plain("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.")
_Loader.add_implicit_resolver(_TAG + "null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])


class _Dumper(pyyaml.SafeDumper):
    """Quotes every text that this module or a YAML 1.1 reader would take for something else."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [
            *pyyaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
            *_Loader.yaml_implicit_resolvers.get(first, []),
        ]
        for first in {*pyyaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
    }


def write(data: Any) -> str:
    """Plain data as YAML text; `parse` gives it back."""
    return pyyaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _LineDumper(_Dumper):
    """Texts of several lines in double quotes, so that they stay in one."""


def _text(dumper: _LineDumper, value: str) -> pyyaml.Node:
    return dumper.represent_scalar(_TAG + "str", value, style='"' if len(value.splitlines()) > 1 else None)


_LineDumper.add_representer(str, _text)


def inline(data: Any) -> str:
    """Plain data as YAML in one line; `parse` gives it back."""
    text = pyyaml.dump(
        data, Dumper=_LineDumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return str(text).removesuffix("\n").removesuffix("\n...")


@dataclass(frozen=True)
class _Place:
    """Where a value is written: its key (None for list items and the root) and its node."""

    key: pyyaml.Mark | None
    node: pyyaml.Node


@dataclass(frozen=True)
class Source:
    """A document that was read: plain data, and where each key and value stands in the text."""

    name: str
    text: str = field(repr=False)
    data: Any
    places: Mapping[KeyPath, _Place] = field(default_factory=dict, repr=False, compare=False)
    prefix: KeyPath = ()

    def locate(self, path: KeyPath, *, key: bool = False, offset: int = 0) -> tuple[int, int]:
        """Line and column (from 1) of the value at `path`, or of its key; the nearest existing parent if it is missing.

        `offset` counts characters inside a text value; quotes and escapes in front of it are accounted for.
        """
        place = self.places.get(path)
        if place is None:
            return self.locate(path[:-1], key=True) if path else (1, 1)
        mark = place.node.start_mark
        if key and place.key is not None:
            mark, offset = place.key, 0
        return mark.line + 1, mark.column + 1 + (_characters(self.text, place.node, offset) if offset else 0)

    def problem(self, path: KeyPath, code: Code, message: str, *, key: bool = False, offset: int = 0) -> Located:
        line, column = self.locate(path, key=key, offset=offset)
        return Located(self.name, line, column, dotted((*self.prefix, *path)), code, message)

    def sub(self, path: KeyPath) -> Source:
        """The document that stands inside this one at `path`, with its positions; messages show the whole key path."""
        data = self.data
        for step in path:
            data = data[step]
        inside = {p[len(path) :]: place for p, place in self.places.items() if p[: len(path)] == path}
        return Source(self.name, self.text, data, inside, (*self.prefix, *path))


def _characters(text: str, node: pyyaml.Node, offset: int) -> int:
    """How many characters of the written scalar stand before its character number `offset`; 0 if it spans lines."""
    start, end = node.start_mark, node.end_mark
    style = getattr(node, "style", None)
    if start.line != end.line or style in ("|", ">"):
        return 0
    if style not in ("'", '"'):
        return offset
    at = start.index + 1
    for _ in range(offset):
        if style == "'" and text[at : at + 2] == "''":
            at += 2
        elif style == '"' and text[at] == "\\":
            at += _ESCAPE.get(text[at + 1], 2)
        else:
            at += 1
    return at - start.index


class _Builder:
    """Turns the node tree into plain data, collecting places and mistakes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[KeyPath, _Place] = {}
        self.problems: list[Located] = []
        self.open: set[int] = set()

    def refuse(self, mark: pyyaml.Mark, path: KeyPath, code: Code, message: str) -> None:
        self.problems.append(Located(self.name, mark.line + 1, mark.column + 1, dotted(path), code, message))

    def build(self, node: pyyaml.Node, path: KeyPath, key: pyyaml.Mark | None = None) -> Any:
        self.places[path] = _Place(key, node)
        if id(node) in self.open:
            self.refuse(node.start_mark, path, "recursive-anchor", "an anchor contains itself")
            return None
        if len(self.places) > MAX_NODES:
            raise BadInput(f"{self.name}: more than {MAX_NODES} values, anchors expanded", code="too-large")
        if isinstance(node, pyyaml.ScalarNode):
            return self.scalar(node, path)
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            self.refuse(node.start_mark, path, "unknown-tag", f"unknown tag {_tag(node)}; documents are plain data")
        self.open.add(id(node))
        if isinstance(node, pyyaml.MappingNode):
            built: Any = self.mapping(node, path)
        else:
            built = [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        self.open.discard(id(node))
        return built

    def mapping(self, node: pyyaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key, value in node.value:
            mark = key.start_mark
            if not isinstance(key, pyyaml.ScalarNode) or key.tag != _TAG + "str":
                shown = key.value if isinstance(key, pyyaml.ScalarNode) else "a list or mapping"
                self.refuse(
                    mark,
                    path,
                    "key-not-text",
                    f"a key must be text, not {shown}; put quotes around it if it is meant as text",
                )
            elif key.value in built:
                first = self.places[(*path, key.value)].key
                seen = f" (first in line {first.line + 1})" if first is not None else ""
                self.refuse(mark, (*path, key.value), "duplicate-key", f"the key {key.value!r} is given twice{seen}")
            else:
                built[key.value] = self.build(value, (*path, key.value), mark)
        return built

    def scalar(self, node: pyyaml.ScalarNode, path: KeyPath) -> Any:
        text, tag = node.value, node.tag.removeprefix(_TAG)
        if tag == "str":
            return text
        if tag == "null" and text in ("", "~", "null", "Null", "NULL"):
            return None
        if tag == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if tag == "int" and re.fullmatch(r"[-+]?[0-9][0-9_]*", text):
            if len(text) <= DIGITS:
                return int(text)
            self.refuse(node.start_mark, path, "out-of-range", f"{shown(text)} is out of range")
            return None
        if tag == "float" and re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
            value = float(text)
            if math.isfinite(value):
                return value
        known = tag in ("null", "bool", "int", "float")
        self.refuse(
            node.start_mark,
            path,
            "not-finite" if tag == "float" else "wrong-type" if known else "unknown-tag",
            f"{text!r} is not a finite number"
            if tag == "float"
            else f"{text!r} is not a value of {_tag(node)}"
            if known
            else f"unknown tag {_tag(node)}; documents are plain data",
        )
        return None


def _tag(node: pyyaml.Node) -> str:
    return "!!" + node.tag.removeprefix(_TAG) if node.tag.startswith(_TAG) else str(node.tag)


def _syntax(error: pyyaml.YAMLError, text: str, name: str) -> Located:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        context = getattr(error, "context", None)
        message = getattr(error, "problem", None) or "not valid YAML"
        return Located(
            name, mark.line + 1, mark.column + 1, "", "not-yaml", f"{context}: {message}" if context else message
        )
    before = text[: getattr(error, "position", 0)]
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    return Located(
        name,
        line,
        column,
        "",
        "control-character",
        "a character that no text contains (control characters are not allowed)",
    )


def parse(text: str, name: str = "<text>") -> Source:
    """The document in `text`. Raises BadInput with positions for anything that is not plain, unambiguous data."""
    if len(text) > MAX_CHARACTERS:
        raise BadInput(f"{name}: more than {MAX_CHARACTERS} characters", code="too-large")
    try:
        node = pyyaml.compose(text, Loader=_Loader)
    except pyyaml.YAMLError as error:
        raise BadInput(problems=[_syntax(error, text, name)]) from error
    except RecursionError as error:
        raise BadInput(f"{name}: nested too deeply", code="too-deep") from error
    if node is None:
        return Source(name, text, None)
    builder = _Builder(name)
    data = builder.build(node, ())
    if builder.problems:
        raise BadInput(problems=sorted(builder.problems, key=lambda p: (p.line, p.column)))
    return Source(name, text, data, builder.places)


def read(path: Path | str) -> Source:
    """The document in a UTF-8 file. Raises BadInput when there is no such file, or as `parse` does."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}", code="no-such-file") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", errors="replace")
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        byte = content[error.start]
        raise BadInput(
            problems=[Located(str(path), line, column, "", "not-utf8", f"not UTF-8: byte 0x{byte:02x}")]
        ) from error
    return parse(text, str(path))
