"""The registry of parts. Torch-free, so that `check`, `schema` and `methods` can read it.

A part's file declares its name, typed config, needs and paper at import time, and imports torch only inside functions.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from autoprune.policy.geometry import Geometry, PatchGrid
    from autoprune.pruning.signals import Site

Kind = Literal["criterion", "selector", "merger", "group", "count"]
Tier = Literal["T0", "T1", "T2", "T3", "T4"]
Reads = Literal["no", "order", "value"]
PACKAGES: Mapping[Kind, str] = {
    "criterion": "criteria",
    "selector": "selectors",
    "merger": "mergers",
    "group": "groups",
    "count": "counts",
}

F = TypeVar("F", bound=Callable[..., Any])


class Config(BaseModel):
    """Base of every part's parameters: unknown keys are mistakes, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def tier(self, declared: Tier) -> Tier:
        """What these parameters make of the part's signal tier."""
        return declared


@dataclass(frozen=True)
class Sizes:
    """What the cost of deciding depends on, for one sample at one stage.

    `current`: V, visual tokens before the stage. `kept`: of criteria and mergers the stage's K, of selectors how many
    the pick chooses. `visual[l]`: visual positions entering decoder layer l. `text`: the other prompt positions.
    `pictures`: inputs of the vision tower. `scored`: whether the pick has a score. `earlier`: how many tokens the
    stage's picks before it chose. `grids`: patches high and wide of each picture, where they have any size.
    """

    geometry: Geometry
    site: Site
    current: int
    kept: int
    visual: tuple[int, ...]
    text: int
    pictures: int
    scored: bool = False
    earlier: int = 0
    grids: tuple[PatchGrid, ...] = ()

    @property
    def query_width(self) -> int:
        return self.geometry.heads * self.geometry.head_dim

    @property
    def key_width(self) -> int:
        return self.geometry.kv_heads * self.geometry.head_dim

    @property
    def tower(self) -> tuple[int, ...]:
        """T of each picture: its patches and CLS."""
        vision = self.geometry.vision
        return tuple(high * wide + vision.has_cls for high, wide in self.grids or vision.grids(self.pictures))

    @property
    def tower_tokens(self) -> int:
        """T of one picture; the mean where they have any size."""
        return sum(self.tower) // max(len(self.tower), 1)

    def width(self, space: str, heads: str = "joined") -> int:
        """Length of a feature row in a space; of keys with all `heads` joined, or their mean."""
        if space == "keys":
            return self.key_width if heads == "joined" else self.geometry.head_dim
        if space == "encoder_keys":
            vision = self.geometry.vision
            return vision.width if heads == "joined" else vision.width // vision.heads
        return self.geometry.projector_width if space == "encoder" else self.geometry.width

    def sequence(self, layer: int, own: bool) -> int:
        """s: positions that decoder layer `layer` sees; `own`: it is the stage's own layer, before the stage."""
        return self.text + (self.current if own else self.visual[layer])

    def probe(self, own: bool) -> int:
        """2·s·d·(h + 2g)·e where the stage's own layer runs up to its attention first, else 0."""
        if not own:
            return 0
        rows = self.current + self.text
        return 2 * rows * self.geometry.width * (self.query_width + 2 * self.key_width)


Flops = Callable[[Any, Sizes], int]


@dataclass(frozen=True)
class PartInfo:
    """What is known of a part without running it. `flops`: operations of one use, from its config and `Sizes`. `sites`
    are the sites where it is legal; `reads`: what a selector or merger takes from the scores (nothing, their order,
    their values), so that scores nobody reads are not computed. `needs`: of a pick or stage a `score`, `heads` apart or
    several `layers`, of the model a `grid`."""

    kind: Kind
    name: str
    config: type[Config]
    run: Callable[..., Any]
    flops: Flops
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
    flops: Flops,
    tier: Tier = "T0",
    sites: tuple[str, ...] = ("projector", "llm"),
    paper: str = "",
    needs: frozenset[str] = frozenset(),
    reads: Reads = "value",
) -> Callable[[F], F]:
    """Register the decorated function as a part. Its signature is fixed by its kind (see `pruning/stage.py`).

    `flops` counts what one use executes: a multiply-add is two operations; sorting, hashing, comparing, softmax and the
    scaling of rows are left out, as everywhere in the cost model."""

    def register(run: F) -> F:
        if (kind, name) in _PARTS and _PARTS[kind, name].run is not run:
            raise ValueError(f"{kind} {name!r} is registered twice")
        summary = (run.__doc__ or "").strip().split("\n")[0]
        _PARTS[kind, name] = PartInfo(kind, name, config, run, flops, tier, sites, paper, needs, reads, summary)
        return run

    return register


def uncounted(config: Any, sizes: Sizes) -> int:
    """0: counting and sorting only."""
    return 0


@functools.cache  # looking through a folder costs more than any look-up
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
