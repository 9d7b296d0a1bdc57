"""The registry of parts: criteria, selectors, mergers. Torch-free, so that `check`, `schema` and `methods` can read it.

A part's file declares its name, typed config, needs and paper at import time, and imports torch only inside functions.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

Kind = Literal["criterion", "selector", "merger"]
Tier = Literal["T0", "T1", "T2", "T3", "T4"]
Reads = Literal["no", "order", "value"]
PACKAGES: Mapping[Kind, str] = {"criterion": "criteria", "selector": "selectors", "merger": "mergers"}

F = TypeVar("F", bound=Callable[..., Any])


class Config(BaseModel):
    """Base of every part's parameters: unknown keys are mistakes, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class PartInfo:
    """What is known of a part without running it. `sites` are the sites where it is legal; `reads`: what a selector or
    merger takes from the scores (nothing, their order, their values), so that scores nobody reads are not computed."""

    kind: Kind
    name: str
    config: type[Config]
    run: Callable[..., Any]
    tier: Tier = "T0"
    sites: tuple[str, ...] = ("projector", "llm")
    paper: str = ""
    needs: frozenset[str] = field(default_factory=frozenset)
    reads: Reads = "value"
    summary: str = ""


_PARTS: dict[tuple[Kind, str], PartInfo] = {}


def part(
    kind: Kind,
    name: str,
    config: type[Config] = Config,
    *,
    tier: Tier = "T0",
    sites: tuple[str, ...] = ("projector", "llm"),
    paper: str = "",
    needs: frozenset[str] = frozenset(),
    reads: Reads = "value",
) -> Callable[[F], F]:
    """Register the decorated function as a part. Its signature is fixed by its kind (see `pruning/stage.py`)."""

    def register(run: F) -> F:
        if (kind, name) in _PARTS and _PARTS[kind, name].run is not run:
            raise ValueError(f"{kind} {name!r} is registered twice")
        summary = (run.__doc__ or "").strip().split("\n")[0]
        _PARTS[kind, name] = PartInfo(kind, name, config, run, tier, sites, paper, needs, reads, summary)
        return run

    return register


def load_parts() -> None:
    """Import every part's file once."""
    for folder in PACKAGES.values():
        package = importlib.import_module(f"autoprune.pruning.{folder}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")


def names(kind: Kind) -> tuple[str, ...]:
    load_parts()
    return tuple(sorted(n for k, n in _PARTS if k == kind))


def find(kind: Kind, name: str) -> PartInfo | None:
    """The part of that name, or None."""
    load_parts()
    return _PARTS.get((kind, name))
