"""What documents need to know of parts. `pruning.lookup.RegisteredParts` is the real one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

PartKind = Literal["criterion", "selector", "merger", "group", "count"]
Reads = Literal["no", "order", "value"]


class PartLookup(Protocol):
    """The parts that exist."""

    def names(self, kind: PartKind) -> tuple[str, ...]:
        """All names of that kind, sorted."""
        ...

    def fill(self, kind: PartKind, name: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters validated, defaults filled in, as JSON values. Raises pydantic.ValidationError."""
        ...

    def sites(self, kind: PartKind, name: str) -> tuple[str, ...]:
        """The sites where the part is legal: 'projector', 'llm'."""
        ...

    def needs_score(self, kind: PartKind, name: str) -> bool:
        """Whether a selector cannot work without scores."""
        ...

    def shares_layers(self, rule: str) -> bool:
        """Whether a count rule shares a budget among several layers, rather than count the tokens of one stage."""
        ...

    def reads_score(self, kind: PartKind, name: str) -> Reads:
        """What a selector or merger takes from the scores: nothing, only their order, or their values."""
        ...
