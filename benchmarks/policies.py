"""Which policies a pool holds: the whole catalog at a few budgets, and seeded samples of search spaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from autoprune.api.proposals import PARTS, candidate
from autoprune.document.yaml import Source, read
from autoprune.errors import BadInput
from autoprune.policy import catalog
from autoprune.policy.arms import arms
from autoprune.policy.bound import BUDGET, BoundSpace
from autoprune.policy.budget import Infeasible
from autoprune.policy.document import Policy
from autoprune.policy.geometry import Geometry
from autoprune.policy.parameters import Parameter
from autoprune.policy.prefix import prefix_key
from autoprune.policy.scale import at_budget
from autoprune.policy.space import Space

BUDGETS = ("0.33", "0.22", "0.11")
TRIES = 100


@dataclass(frozen=True)
class Entry:
    """One policy of a pool. `source` is the catalog policy's or the space's name, `target` the budget it was scaled to
    (None: sampled), `values` the sampled parameters."""

    kind: str
    source: str
    target: str | None
    document: Mapping[str, Any]
    canonical: str
    digest: str
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.source}@{self.target}" if self.target else f"{self.source}-{self.digest[:8]}"


def catalog_entries(
    geometry: Geometry, tokens: int, budgets: Sequence[str] = BUDGETS
) -> tuple[list[Entry], list[dict[str, str]]]:
    """Every catalog policy at every budget, made as `autoprune compare` makes them; and those that cannot be, with the
    reason."""
    made, impossible = [], []
    for name in catalog.names("policies"):
        policy = Policy.from_source(read(catalog.find("policies", name)), PARTS)
        for budget in budgets:
            try:
                point = candidate(at_budget(policy, Fraction(budget), geometry), geometry, tokens, name)
            except (Infeasible, BadInput) as error:
                impossible.append({"policy": name, "target": budget, "reason": str(error)})
                continue
            made.append(Entry("catalog", name, budget, point.document, point.canonical, point.digest, {}))
    return made, impossible


def sampled_entries(name: str, count: int, geometry: Geometry, tokens: int, seed: int) -> list[Entry]:
    """`count` feasible policies of a space: budgets spread evenly over its range, everything else drawn uniformly. Of a
    space with arms, so many of each."""
    return [
        entry
        for arm in arms(read(catalog.find("search_spaces", name)), []).values()
        for entry in _sampled(arm, count, geometry, tokens, np.random.default_rng([seed, *name.encode()]))
    ]


def _sampled(source: Source, count: int, geometry: Geometry, tokens: int, rng: np.random.Generator) -> list[Entry]:
    space = Space.from_source(source, PARTS, geometry).bind(geometry)
    made: dict[str, Entry] = {}
    for place in (rng.permutation(count) + 0.5) / count:
        for _ in range(TRIES):
            values = {p.name: _drawn(p, rng, place if p.name == BUDGET else None) for p in space.parameters}
            entry = _filled(space, values, geometry, tokens)
            if entry is not None and entry.digest not in made:
                made[entry.digest] = entry
                break
    return list(made.values())


def _filled(space: BoundSpace, values: Mapping[str, Any], geometry: Geometry, tokens: int) -> Entry | None:
    try:
        point = candidate(space.fill(values), geometry, tokens)
    except (Infeasible, BadInput):
        return None
    return Entry("sample", space.name, None, point.document, point.canonical, point.digest, values)


def _drawn(parameter: Parameter, rng: np.random.Generator, place: float | None) -> Any:
    """A value of the parameter: at `place` in [0, 1] of its range, or drawn."""
    if parameter.kind == "choice":
        return parameter.choices[int(rng.integers(len(parameter.choices)))]
    if parameter.low is None or parameter.high is None:
        raise ValueError(f"{parameter.name} has no range")
    if parameter.kind == "int":
        return int(rng.integers(int(parameter.low), int(parameter.high) + 1))
    share = float(rng.random()) if place is None else place
    if parameter.log:
        return float(np.exp(np.log(parameter.low) + share * (np.log(parameter.high) - np.log(parameter.low))))
    return float(parameter.low + share * (parameter.high - parameter.low))


def by_prefix(entries: Sequence[Entry]) -> list[Entry]:
    """Without repetitions of an effect (catalog entries first), and so that policies that begin with the same stages
    follow each other: what they share can be computed once."""
    distinct: dict[str, Entry] = {}
    for entry in entries:
        distinct.setdefault(entry.digest, entry)
    return sorted(distinct.values(), key=lambda entry: prefix_key(entry.canonical))
