"""The registered parts as documents see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoprune.pruning import parts

if TYPE_CHECKING:
    from autoprune.policy.lookup import PartKind, Reads


class RegisteredParts:
    """`policy.lookup.PartLookup` over the registry in `pruning.parts`. Raises KeyError for names that do not exist."""

    def names(self, kind: PartKind) -> tuple[str, ...]:
        return parts.names(kind)

    def fill(self, kind: PartKind, name: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises pydantic.ValidationError for wrong parameters."""
        return self._find(kind, name).config.model_validate(dict(params)).model_dump(mode="json", by_alias=True)

    def sites(self, kind: PartKind, name: str) -> tuple[str, ...]:
        return self._find(kind, name).sites

    def needs_score(self, kind: PartKind, name: str) -> bool:
        return "score" in self._find(kind, name).needs

    def shares_layers(self, rule: str) -> bool:
        return "layers" in self._find("count", rule).needs

    def reads_score(self, kind: PartKind, name: str) -> Reads:
        return self._find(kind, name).reads

    def _find(self, kind: PartKind, name: str) -> parts.PartInfo:
        found = parts.find(kind, name)
        if found is None:
            raise KeyError(f"no {kind} {name!r}")
        return found
