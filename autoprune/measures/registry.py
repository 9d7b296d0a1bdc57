"""The registry of measures. Torch-free: a measure's file declares itself at import time and imports torch when it runs.

Three kinds of function are registered. A model measure takes a `views.View` (one batch of a run) and its config and
returns one number per sample, shape [B]. A cost (`cost=True`) takes the `costs.SampleCost` of every sample and its
config and returns one number; it never runs the model. A timing (`timed=True`) takes a `Stopwatch` and its config and
returns one number, which belongs to the device it was taken on.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from autoprune.pruning.parts import Config

if TYPE_CHECKING:
    from autoprune.measures.latency import Spread

Direction = Literal["higher", "lower"]
Need = Literal["answers", "own_answers", "reference_logits", "states"]

Stopwatch = Callable[[int, int], "Spread"]
"""(records, rounds) -> pruned over unpruned time of a prefill of so many records as one batch, over the rounds."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class MeasureInfo:
    """What is known of a measure without running it. `version` changes whenever its numbers would; `direction` says
    which way is better; `bounded` is its range where it has one; `also_needs` is what only some options need.
    `unpruned`: it describes the model without a policy, takes a `profile.Profile`, and can be no goal."""

    name: str
    config: type[Config]
    run: Callable[..., Any]
    version: str
    direction: Direction
    needs: frozenset[Need]
    also_needs: Callable[[Any], Iterable[Need]]
    unit: str
    bounded: tuple[float, float] | None
    cost: bool
    timed: bool
    unpruned: bool
    paper: str
    summary: str

    @property
    def by_record(self) -> bool:
        """Whether it has one number for each record."""
        return not (self.cost or self.timed)

    def needs_of(self, config: Any) -> frozenset[Need]:
        """What it needs with these options."""
        return self.needs.union(self.also_needs(config))


_MEASURES: dict[str, MeasureInfo] = {}


def measure(
    name: str,
    config: type[Config] = Config,
    *,
    version: str = "1",
    direction: Direction,
    needs: Iterable[Need] = (),
    also_needs: Callable[[Any], Iterable[Need]] = lambda config: (),
    unit: str = "",
    bounded: tuple[float, float] | None = None,
    cost: bool = False,
    timed: bool = False,
    unpruned: bool = False,
    paper: str = "",
) -> Callable[[F], F]:
    """Register the decorated function as a measure."""

    def register(run: F) -> F:
        if name in _MEASURES and _MEASURES[name].run is not run:
            raise ValueError(f"measure {name!r} is registered twice")
        summary = (run.__doc__ or "").strip().split("\n")[0]
        _MEASURES[name] = MeasureInfo(
            name,
            config,
            run,
            version,
            direction,
            frozenset(needs),
            also_needs,
            unit,
            bounded,
            cost,
            timed,
            unpruned,
            paper,
            summary,
        )
        return run

    return register


@functools.cache  # looking through a folder costs more than any look-up
def load_measures() -> None:
    """Import every measure's file once."""
    package = importlib.import_module("autoprune.measures.kinds")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def is_accuracy(name: str) -> bool:
    """Whether it says how often something is right: per sample, bounded, better when higher."""
    info = find(name)
    return info is not None and info.by_record and info.bounded is not None and info.direction == "higher"


def names() -> tuple[str, ...]:
    """All that policies can be measured by."""
    load_measures()
    return tuple(sorted(name for name, info in _MEASURES.items() if not info.unpruned))


def find(name: str) -> MeasureInfo | None:
    """The measure of that name, or None."""
    load_measures()
    return _MEASURES.get(name)
