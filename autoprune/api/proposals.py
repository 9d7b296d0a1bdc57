"""A search space bound to a model, as the driver sees it: values in, policies held against the model out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from autoprune.api.within_reach import WithinReach
from autoprune.policy import canonical
from autoprune.policy.document import Policy
from autoprune.policy.geometry import Geometry
from autoprune.policy.placing import Slot, placed, snapped
from autoprune.policy.space import BoundSpace, Parameter
from autoprune.pruning.lookup import RegisteredParts
from autoprune.pruning.plan import make_plan
from autoprune.search.plan import Candidate

PARTS = RegisteredParts()


@dataclass(frozen=True)
class Proposals:
    """A bound search space as the driver sees it. `places`: where layers are moved to, by slot; None = they stay."""

    space: BoundSpace
    geometry: Geometry
    tokens: int | None
    places: Mapping[str, tuple[int, ...]] | None = None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return tuple(self._edged(parameter) for parameter in self.space.parameters)

    def _edged(self, parameter: Parameter) -> Parameter:
        """An end of a range that no layer is moved to is none that is worth widening."""
        if self.places is None or parameter.name not in self.places:
            return parameter
        slot, at, (low, high) = self.space.slots[parameter.name], self.places[parameter.name], parameter.edges
        return replace(parameter, edges=(low if slot.low in at else None, high if slot.high in at else None))

    def candidate(self, values: Mapping[str, Any]) -> Candidate:
        return candidate(self._fill(values), self.geometry, self.tokens)

    def filled(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._fill(values).dump()

    def _fill(self, values: Mapping[str, Any]) -> Policy:
        return self.space.fill(self.reach.moved(self._placed(values)))

    def _placed(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values with their layers moved; those that make no policy at all are left to the space to refuse."""
        if self.places is None or not all(slot.name in values for slot in self.slots):
            return values
        return snapped(self.slots, values, self.places)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(self.space.slots.values())

    def narrowed(self, places: Mapping[str, Collection[int]]) -> Proposals:
        return replace(self, places={name: tuple(sorted(layers)) for name, layers in places.items()})

    @cached_property
    def reach(self) -> WithinReach:
        return WithinReach(self.space, lambda policy: canonical.resolve(policy, self.geometry, PARTS, self.tokens))

    @cached_property
    def sites(self) -> tuple[int, ...]:
        return self.space.sites

    @property
    def keeps(self) -> frozenset[str]:
        return self.space.keeps

    @property
    def depth(self) -> int:
        return self.geometry.depth

    def free(self, document: Mapping[str, Any]) -> Candidate:
        made = candidate(Policy.parse(document, PARTS), self.geometry, self.tokens)
        make_plan(canonical.from_json(made.canonical), self.geometry)
        return made

    def express(self, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return self.expressed(Policy.parse(document, PARTS))

    def expressed(self, policy: Policy) -> Mapping[str, Any] | None:
        """Values that make a policy of this effect, or None."""
        values = self.space.express(policy)
        if values is None or placed(self.slots, self._placed(values)) != placed(self.slots, values):
            return None
        return self.reach.sampled(values)

    def costs(self, candidate: Candidate) -> Mapping[str, float]:
        """The budget, where every sample has the same N and no rule decides on the run; other costs need the texts'
        lengths."""
        from autoprune.policy.budget import budget, lengths

        resolved = canonical.from_json(candidate.canonical)
        if self.tokens is None or resolved.adaptive:
            return {}
        return {"budget": budget([lengths(resolved, self.tokens)], [self.tokens], self.geometry.depth)}


def candidate(
    policy: Policy, geometry: Geometry, tokens: int | None, name: str | None = None, *, parity: bool = False
) -> Candidate:
    """The policy bound to the model, in a parity run or not; unnamed ones are called after their digest."""
    resolved = canonical.resolve(policy, geometry, PARTS, tokens, parity=parity)
    text, digest = canonical.to_json(resolved), canonical.digest(resolved)
    name = name or f"{policy.name}-{digest[:8]}"
    return Candidate(name, {**policy.dump(), "name": name}, text, digest)
