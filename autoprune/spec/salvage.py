"""A spec with mistakes read as far as it goes, so that one mistake does not hide the next."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from autoprune.document.problems import Path, Problem, from_pydantic
from autoprune.spec.models import Spec

# What is required, and what stands there while it is missing or wrong. Nothing looks at a stand-in: its path is broken.
_STAND_INS: Mapping[Path, Any] = {
    ("name",): "unnamed",
    ("model",): {},
    ("model", "path"): "unknown",
    ("calibration",): {},
    ("calibration", "records"): "unknown",
    ("calibration", "search"): 1,
    ("search_space",): "unknown",
    ("objectives",): [],
}


@dataclass(frozen=True)
class Salvaged:
    """`broken`: the paths at which a mistake was found; what stands there in `spec` is a default or a stand-in."""

    spec: Spec
    problems: tuple[Problem, ...] = ()
    broken: frozenset[Path] = field(default_factory=frozenset)


def salvage(written: Mapping[str, Any]) -> Salvaged:
    """The spec, with everything left out that does not read well, and every mistake in it."""
    try:
        return Salvaged(Spec.model_validate(written))
    except ValidationError as error:
        found = from_pydantic(error, model=Spec, data=written)
    broken = {problem.path for problem in found}
    rest: Any = copy.deepcopy(dict(written))
    problems = found
    while problems:
        for path in sorted({p.path for p in problems}, key=len, reverse=True):
            _leave_out(rest, path)
        try:
            spec = Spec.model_validate(rest)
        except ValidationError as error:
            problems = from_pydantic(error, model=Spec, data=rest)
            broken |= {problem.path for problem in problems}
        else:
            return Salvaged(spec, tuple(found), frozenset(broken))
    raise AssertionError("the first reading found a mistake")


def _leave_out(rest: Any, path: Path) -> None:
    """Take the value at the path away; a stand-in comes where one is needed, an empty text for an item of a list (the
    others keep their places); where even that is wrong, the list goes."""
    here = rest
    for step in path[:-1]:
        here = here[step]
    last = path[-1]
    if isinstance(here, list) and here[int(last)] == "":
        _leave_out(rest, path[:-1])  # a list in which no text stands
    elif isinstance(here, list):
        here[int(last)] = ""
    elif last in here:
        del here[last]
    elif path in _STAND_INS:
        here[last] = copy.deepcopy(_STAND_INS[path])
    elif len(path) > 1:
        _leave_out(rest, path[:-1])  # something optional that lacks what it needs
