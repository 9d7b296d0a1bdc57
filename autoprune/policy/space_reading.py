"""From a space document's plain data to a `Space`: definitions, references, order, what is solved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from autoprune.document.problems import Path, Problems, dotted, meant, shown, suggest
from autoprune.policy.holes import Hole, holes, inline_kind
from autoprune.policy.parameters import Param, read_param
from autoprune.policy.placing import Order, sorted_names
from autoprune.policy.read_fields import check_keys, number
from autoprune.policy.space import SCHEMA, Space

if TYPE_CHECKING:
    from autoprune.policy.lookup import PartLookup

KEYS = ("schema", "name", "paper", "budget", "params", "order", "criteria", "stages", "warm_start")
BUDGET = "budget"


def read_space(data: Any, parts: PartLookup | None, found: Problems) -> Space | None:
    """The space, with every mistake of its frame added to `found`: then it is good for a look at its stages alone, and
    holes that cannot be filled are left out of its template. None where there is nothing to look at."""
    if not check_keys(data, (), KEYS, ("stages",), found):
        return None
    if data.get("schema", SCHEMA) != SCHEMA:
        found.add(
            ("schema",),
            "wrong-schema",
            f"must be {SCHEMA}, not {shown(data['schema'])}{suggest(data['schema'], (SCHEMA,))}",
        )
    template = {"criteria": data.get("criteria", {}), "stages": data.get("stages")}
    if not isinstance(template["stages"], list) or not template["stages"]:
        found.add(
            ("stages",),
            "empty-value" if template["stages"] == [] else "wrong-type",
            f"stages are a list with at least one entry, not {shown(template['stages'])}",
        )
        template["stages"] = None
    declared = _declared(data, found)
    written = list(_all_holes(template, declared))
    inline = _inline(written, found)
    if "params" in data or not any(meant(p) == "params" for p in found):
        _check_references(written, declared, found)
    budget = _budget(data, written, found)
    params = (*(p for p in declared.values() if p is not None), *inline)
    order = _order(data, {p.name: p for p in params}, found)
    warm = data.get("warm_start", [])
    if not isinstance(warm, list) or not all(isinstance(w, str) for w in warm):
        found.add(("warm_start",), "wrong-type", f"warm_start is a list of policy names, not {shown(warm)}")
    name = data.get("name", "")
    if not isinstance(name, str):
        found.add(("name",), "wrong-type", f"must be text, not {shown(name)}")
    known = _Known(declared, {p.path for p in inline})
    fillable = {key: known.part(template[key], (key,)) for key in ("criteria", "stages")}
    if not fillable["stages"] or sorted_names(tuple(p.name for p in params), order) is None:
        return None
    if budget is None and any(hole.solve for hole in written):
        budget = (Fraction(1, 2), Fraction(1, 2))  # a stand-in: that there is none was said
    warm = tuple(warm) if isinstance(warm, list) else ()
    return Space(str(name), fillable, params, order, budget, (BUDGET,), warm, parts, tuple(known.left_out))


class _Known:
    """Leaves out of a template what has a hole that nothing is known to fill."""

    def __init__(self, declared: Mapping[str, Param | None], inline: set[Path]) -> None:
        self.declared, self.inline = declared, inline
        self.left_out: list[Path] = []

    def part(self, value: Any, path: Path) -> Any:
        """The value without those keys; a list keeps its length, what is left out of it is None."""
        if isinstance(value, Mapping) and inline_kind(value) is None:
            good = {key: inner for key, inner in value.items() if self.good(inner, (*path, key))}
            self.left_out += [(*path, key) for key in value if key not in good]
            return {key: self.part(inner, (*path, key)) for key, inner in good.items()}
        if isinstance(value, list):
            self.left_out += [(*path, i) for i, inner in enumerate(value) if not self.good(inner, (*path, i))]
            return [self.part(v, (*path, i)) if self.good(v, (*path, i)) else None for i, v in enumerate(value)]
        return value

    def good(self, value: Any, path: Path) -> bool:
        """Whether the value is no such hole, nor a list with one."""
        if isinstance(value, list):
            return all(isinstance(inner, Mapping) or self.good(inner, (*path, i)) for i, inner in enumerate(value))
        if isinstance(value, Mapping) and inline_kind(value) is None:
            return not value or any(self.good(inner, (*path, key)) for key, inner in value.items())
        return all(self.filled(hole) for hole in holes(value, path))

    def filled(self, hole: Hole) -> bool:
        """Whether something is known to fill a hole and, in turn, those in its options."""
        if hole.kind is not None and hole.path not in self.inline:
            return False
        if hole.name is not None and self.declared.get(hole.name) is None:
            return False
        param = self.declared.get(hole.name or "")
        options = hole.value["choice"] if hole.kind == "choice" else () if param is None else param.options
        start = hole.path if param is None else param.path
        return all(self.filled(inner) for inner in _in_options(options, (*start, "choice")))


def _declared(data: Mapping[str, Any], found: Problems) -> dict[str, Param | None]:
    """Name -> definition (None where it is wrong, so that references to it are not wrong as well)."""
    params = data.get("params", {})
    if not isinstance(params, Mapping):
        found.add(("params",), "wrong-type", f"params are a mapping from names to definitions, not {shown(params)}")
        return {}
    read: dict[str, Param | None] = {}
    for name, value in params.items():
        path = ("params", name)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name == BUDGET:
            rule = "letters, digits and _; `budget` is taken"
            found.add(path, "bad-name", f"a parameter's name consists of {rule}: {name!r}", key=True)
            read[name] = None
        else:
            read[name] = read_param(name, value, path, found)
    return read


def _all_holes(template: Mapping[str, Any], declared: Mapping[str, Param | None]) -> Iterator[Hole]:
    """Holes of the template and, in turn, of the options of every choice."""
    todo = list(holes(template))
    todo += [h for p in declared.values() if p is not None for h in _in_options(p.options, (*p.path, "choice"))]
    while todo:
        hole = todo.pop(0)
        yield hole
        if hole.kind == "choice":
            todo += _in_options(hole.value["choice"], (*hole.path, "choice"))


def _in_options(options: Any, path: Path) -> list[Hole]:
    return [h for i, option in enumerate(options) for h in holes(option, (*path, i))]


def _inline(written: list[Hole], found: Problems) -> tuple[Param, ...]:
    """Inline holes, named by their key path."""
    read = [read_param(dotted(h.path), h.value, h.path, found) for h in written if h.kind is not None]
    return tuple(p for p in read if p is not None)


def _check_references(written: list[Hole], declared: Mapping[str, Param | None], found: Problems) -> None:
    used = set()
    meant = set()
    for hole in written:
        if hole.name is None:
            continue
        used.add(hole.name)
        if hole.name not in declared:
            hint = suggest(hole.name, declared)
            meant.add(hint)
            known = f"declared: {', '.join(declared) or 'none'}{hint}"
            found.add(hole.path, "unknown-parameter", f"unknown parameter ${hole.name}; {known}", offset=hole.offset)
    for name in declared:
        if name not in used and suggest(name, (name,)) not in meant:
            found.add(("params", name), "unused", f"the parameter {name!r} is not used", key=True)


def _budget(data: Mapping[str, Any], written: list[Hole], found: Problems) -> tuple[Fraction, Fraction] | None:
    solves = [hole for hole in written if hole.solve]
    for hole in solves[1:]:
        found.add(
            hole.path,
            "second-budget",
            f"a second `solve` (the first is {dotted(solves[0].path)}): one number follows from a budget",
        )
    value = data.get(BUDGET)
    if value is None:
        if solves:
            found.add(
                solves[0].path, "solve-without-budget", "`solve` needs a budget: `budget: {float: [lowest, highest]}`"
            )
        return None
    if not solves:
        found.add((BUDGET,), "budget-without-solve", "there is a budget, but no number is `solve`", key=True)
    if not isinstance(value, Mapping):
        fixed = number(value, (BUDGET,), found)
        return None if fixed is None else (fixed, fixed)
    before = len(found)
    param = read_param(BUDGET, value, (BUDGET,), found)
    if param is None:
        return None
    if param.kind != "float" or param.log or not 0 < param.low < param.high <= 1:
        if len(found) == before:
            found.add(
                (BUDGET,),
                "not-a-range",
                f"a budget is a number or {{float: [a, b]}} with 0 < a < b <= 1, not {shown(dict(value))}",
            )
        return None
    return Fraction(param.low), Fraction(param.high)


def _order(data: Mapping[str, Any], params: Mapping[str, Param], found: Problems) -> Order:
    """`l1 < l2 < l3` as pairs."""
    listed = data.get("order", [])
    if not isinstance(listed, list):
        found.add(("order",), "wrong-type", f"order is a list like [l1 < l2], not {shown(listed)}")
        return ()
    pairs: list[tuple[str, str]] = []
    for i, entry in enumerate(listed):
        path = ("order", i)
        names = [name.strip() for name in entry.split("<")] if isinstance(entry, str) else []
        if len(names) < 2 or not all(names):
            found.add(path, "not-an-order", f"an order reads l1 < l2, not {shown(entry)}")
            continue
        for name in names:
            offset = str(entry).find(name)
            if name not in params and not _declared_badly(data, name):
                found.add(
                    path, "unknown-parameter", f"unknown parameter {name!r}{suggest(name, params)}", offset=offset
                )
            elif name in params and params[name].kind != "layer":
                found.add(
                    path, "not-an-order", f"order is between layers; {name!r} is a {params[name].kind}", offset=offset
                )
        pairs += pairwise(names)
    good = tuple(dict.fromkeys(p for p in pairs if all(n in params and params[n].kind == "layer" for n in p)))
    if sorted_names(tuple(params), good) is None:
        found.add(("order",), "circular-order", "the order goes in a circle")
        return ()
    return good


def _declared_badly(data: Mapping[str, Any], name: str) -> bool:
    return isinstance(data.get("params"), Mapping) and name in data["params"]
