"""A search space: a policy with holes. Bound to a model's geometry it says what a sampler is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from autoprune.document.problems import Path, Problems
from autoprune.policy.bound import BoundSpace
from autoprune.policy.parameters import Param, Parameter
from autoprune.policy.placing import Order

if TYPE_CHECKING:
    from autoprune.document.yaml import Source
    from autoprune.policy.geometry import Geometry
    from autoprune.policy.lookup import PartLookup

__all__ = ["SCHEMA", "BoundSpace", "Parameter", "Space"]

SCHEMA = "autoprune/space/1"


@dataclass(frozen=True)
class Space:
    """What may vary. `template` is the document's criteria and stages with their holes; `params` are all definitions,
    declared ones by their name, inline ones by their key path; `budget` is the range of the budget that `solve` meets
    (both ends equal where it is fixed). `left_out`: places of holes that nothing fills, in a space with mistakes."""

    name: str
    template: Mapping[str, Any]
    params: tuple[Param, ...]
    order: Order
    budget: tuple[Fraction, Fraction] | None
    budget_path: Path
    warm_start: tuple[str, ...]
    parts: PartLookup | None = field(default=None, compare=False, repr=False)
    left_out: tuple[Path, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def from_source(cls, source: Source, parts: PartLookup | None = None, geometry: Geometry | None = None) -> Space:
        """The space in a document; with `geometry`, held against that model. Raises BadInput with every mistake."""
        return _checked(source.data, parts, geometry, source)

    @classmethod
    def parse(cls, data: Any, parts: PartLookup | None = None, geometry: Geometry | None = None) -> Space:
        """The space in plain data. Raises BadInput with every mistake."""
        return _checked(data, parts, geometry, None)

    def bind(self, geometry: Geometry) -> BoundSpace:
        """The space for one model: fractions of the depth become layers."""
        return BoundSpace(self, geometry)

    @property
    def digest(self) -> str:
        """SHA-256 of what may vary, in hex: names of the space and its warm starts are not part of it."""
        content = {
            "template": self.template,
            "params": {p.name: [p.kind, str(p.low), str(p.high), p.log, p.options, p.names] for p in self.params},
            "order": self.order,
            "budget": None if self.budget is None else [str(b) for b in self.budget],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _checked(data: Any, parts: PartLookup | None, geometry: Geometry | None, source: Source | None) -> Space:
    from autoprune.policy.space_check import model_problems
    from autoprune.policy.space_reading import read_space

    found = Problems()
    space = read_space(data, parts, found)
    if space is not None:
        found.extend(model_problems(space, geometry, list(found)))
    found.raise_for(source)
    if space is None:
        raise AssertionError("a space is missing without a problem")
    return space
