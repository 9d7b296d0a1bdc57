"""Arms of a space: structures that differ, each a space of its own that shares what is declared beside them.

The document of an arm is the space's with the arm's own keys in it. Of what is shared, an arm has what it uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.codes import Code
from autoprune.document.problems import Path, Problems, shown
from autoprune.document.yaml import Source
from autoprune.errors import Located
from autoprune.policy.holes import REFERENCE
from autoprune.policy.read_fields import check_keys

MOST = 12
OWN = ("budget", "params", "order", "criteria", "stages")
SHARED = ("schema", "name", "paper", "budget", "params", "criteria", "warm_start")
NAMED = ("params", "criteria")  # what is declared by name is shared, or overridden, name by name
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


@dataclass(frozen=True)
class ArmSource(Source):
    """The document of one arm; what is said about it stands where it was written."""

    arm: str = ""
    origin: Source | None = None

    def _there(self, path: Path) -> tuple[Source, Path]:
        origin = self if self.origin is None else self.origin
        own = origin.data["arms"][self.arm]
        if not path or path[0] not in origin.data:
            return origin, ("arms", self.arm, *path)
        inside = own.get(path[0], {}) if path[0] in NAMED and len(path) > 1 else own
        mine = isinstance(inside, Mapping) and (path[1] if inside is not own else path[0]) in inside
        return origin, ("arms", self.arm, *path) if mine else path

    def locate(self, path: Path, *, key: bool = False, offset: int = 0) -> tuple[int, int]:
        origin, there = self._there(path)
        return origin.locate(there, key=key, offset=offset)

    def problem(self, path: Path, code: Code, message: str, *, key: bool = False, offset: int = 0) -> Located:
        origin, there = self._there(path)
        return origin.problem(there, code, message, key=key, offset=offset)


def arms(source: Source, found: list[Located]) -> dict[str, Source]:
    """Every arm's document by name; the document itself, under the empty name, where it has no arms. Mistakes of the
    frame go to `found`."""
    data = source.data
    if not isinstance(data, Mapping) or "arms" not in data:
        return {"": source}
    problems = Problems()
    check_keys(data, (), (*SHARED, "arms"), (), problems)
    declared = data["arms"]
    if not isinstance(declared, Mapping) or not 2 <= len(declared) <= MOST:
        problems.add(
            ("arms",), "wrong-arms", f"arms are a mapping from 2 to {MOST} names to what they have of their own"
        )
        declared = {}
    made: dict[str, Source] = {}
    used: set[tuple[str, str]] = set()
    for name, own in declared.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            problems.add(("arms", name), "bad-name", f"not a name: {shown(name)}", key=True)
        elif check_keys(own, ("arms", name), OWN, ("stages",), problems):
            document = _merged(data, name, own, used)
            made[name] = ArmSource(source.name, source.text, document, {}, source.prefix, arm=name, origin=source)
    if len(made) == len(declared) and made:
        for kind in NAMED:
            for key in data.get(kind, {}) if isinstance(data.get(kind), Mapping) else ():
                if (kind, key) not in used:
                    problems.add((kind, key), "unused", f"{key!r} is used by no arm", key=True)
    found.extend(problems.located(source))
    return made


def _merged(data: Mapping[str, Any], name: str, own: Mapping[str, Any], used: set[tuple[str, str]]) -> dict[str, Any]:
    """The arm as a document; what it takes of the shared definitions is added to `used`."""
    document = {key: data[key] for key in SHARED if key in data and key not in NAMED}
    document.update({key: value for key, value in own.items() if key not in NAMED})
    document["name"] = f"{data['name']}-{name}" if isinstance(data.get("name"), str) else name
    mine = {kind: dict(own[kind]) if isinstance(own.get(kind), Mapping) else {} for kind in NAMED}
    grown = True
    while grown:
        grown = False
        words = set(_words([document.get("stages"), *mine.values()]))
        for kind in NAMED:
            shared = data.get(kind)
            for key, value in shared.items() if isinstance(shared, Mapping) else ():
                if (f"${key}" if kind == "params" else key) in words:
                    used.add((kind, key))
                    if key not in mine[kind]:
                        mine[kind][key] = value
                        grown = True
    document.update({kind: mine[kind] for kind in NAMED if mine[kind] or kind in own})
    if "budget" not in own and "solve" not in words:
        document.pop("budget", None)
    return document


def _words(value: Any) -> Iterator[str]:
    """Every text in it, keys included, and each `$name` by itself."""
    if isinstance(value, str):
        yield value
        yield from (match[0] for match in REFERENCE.finditer(value))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _words(key)
            yield from _words(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _words(inner)
