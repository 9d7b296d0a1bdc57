"""What the store hands out beside the records of `ports`: immutable, and free of SQLAlchemy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

StudyState = Literal["created", "running", "complete", "interrupted", "failed"]
OutboxKind = Literal["study", "trial", "front", "publish"]


@dataclass(frozen=True)
class OutboxRow:
    """One message for the publisher. Rows of a study are published in the order of `id`."""

    id: int
    study: str
    kind: OutboxKind
    payload: Mapping[str, Any]
    created: datetime
    published: datetime | None = None
    attempts: int = 0
    last_error: str = ""


@dataclass(frozen=True)
class StudySummary:
    """One line about a study. `complete` leaves the baseline out; `best` holds the search values of the newest
    front's selected member (empty until a front with a selection exists); `front` is that front's size."""

    id: str
    name: str
    digest: str
    state: StudyState
    created: datetime
    complete: int = 0
    failed: int = 0
    infeasible: int = 0
    front: int | None = None
    best: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the time in ISO 8601, UTC."""
        return {**asdict(self), "created": self.created.isoformat(timespec="seconds")}
