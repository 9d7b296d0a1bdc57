"""What the registry needs to know of the store: rows that wait to be published. Any object of this shape will do.

What a row's payload holds, by kind:

* ``study``: anything; the parent run is made sure of, and shown as running again.
* ``trial``: a settled `ports.TrialRecord` as a mapping.
* ``front``: the front document (the shape of ``autoprune front --json``).
* ``publish``: ``{"folder": path of a saved policy, "tags": {...}}`` and, if they differ from the defaults, ``"name"``
  (the registered model's name) and ``"alias"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from autoprune.ports import TrialRecord
from autoprune.spec.goals import Constraint, Objective


class OutboxRow(Protocol):
    """One change of the store that the outside has not seen yet. Ids grow in the order of the changes."""

    @property
    def id(self) -> int: ...

    @property
    def kind(self) -> str: ...

    @property
    def payload(self) -> str | Mapping[str, Any]:
        """JSON text, or what it decodes to."""
        ...


class Outbox(Protocol):
    """The store's side of publishing."""

    def outbox(self) -> Sequence[OutboxRow]:
        """Unpublished rows, oldest first."""
        ...

    def hold(self) -> None:
        """Raises LeaseLost where whoever publishes is the study's driver no longer."""
        ...

    def mark_published(self, row_id: int) -> None:
        """Take the row off the list, durably."""
        ...

    def mark_failed_attempt(self, row_id: int, error: str) -> None:
        """Count an attempt; the row stays on the list."""
        ...

    def trials(self) -> Sequence[TrialRecord]:
        """All settled trials by number (for the figures and the hypervolume curve)."""
        ...


@dataclass(frozen=True)
class StudyInfo:
    """What the parent run says about its study.

    `artifact_root` is the folder (or URI) under which a new experiment keeps its artifacts; None = a folder beside a
    SQLite tracking database, the server's own choice elsewhere. `registered_model` None = nothing is registered.
    """

    study_id: str
    name: str
    spec_text: str
    resolved: Mapping[str, Any]
    digests: Mapping[str, str]
    objectives: tuple[Objective, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    registered_model: str | None = None
    artifact_root: str | None = None
