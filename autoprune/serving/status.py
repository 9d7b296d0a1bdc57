"""What a handle says of itself: plain values, for a health check or a log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Status:
    """`version` (None where the reference has none) and name of the `policy` in force, `since` when; `uncertified`: why
    its measurements do not hold on a model it serves. `rejected`: the version that a model refused, while it is what
    the reference means and the models are the same. `error`: what went wrong in the last check, empty where nothing
    did. `checks`, `swaps`, `failures` count; `running` requests, and `served`: what has run, by the sessions' `Stats`
    added up."""

    reference: str
    version: str | None
    policy: str
    since: datetime
    last_check: datetime
    error: str = ""
    rejected: str | None = None
    uncertified: tuple[str, ...] = ()
    checks: int = 0
    swaps: int = 0
    failures: int = 0
    models: int = 0
    running: int = 0
    served: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        times = {name: getattr(self, name).isoformat() for name in ("since", "last_check")}
        return {**asdict(self), **times, "uncertified": list(self.uncertified)}
