"""A study's whole story once more: an outbox of everything that was ever announced, for a registry that lost some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from autoprune.ports import TrialRecord
from autoprune.registry import names, policies
from autoprune.registry.outbox import Outbox, OutboxRow


class History(Outbox, Protocol):
    """What the store keeps of an outbox."""

    def outbox(self, published: bool = False) -> Sequence[Any]:
        """Waiting rows, oldest first; with `published`, those that were published too (`row.published` says when)."""
        ...


@dataclass(frozen=True)
class _Row:
    id: int
    kind: str
    payload: Mapping[str, Any]


class WholeStory:
    """An `Outbox` that starts with all rows that still count: of the study and of its fronts the newest, every trial,
    every version.

    An alias is MLflow's own truth: a version that was published before moves none, except the last of a registered
    policy that has no `candidate` (its registry is new).
    """

    def __init__(self, log: History, tracking_uri: str) -> None:
        self._log = log
        self.trouble: dict[int, str] = {}
        aliases = {model.name: model.aliases for model in policies.registered(tracking_uri)}
        rows = log.outbox(published=True)
        newest = {row.kind: row.id for row in rows}
        last = {row.payload.get("name"): row.id for row in rows if row.kind == "publish"}
        self._rows: list[OutboxRow] = []
        self._passed_over: list[int] = []
        for row in rows:
            if row.kind in ("study", "front") and row.id != newest[row.kind]:
                self._passed_over.append(row.id)
                continue
            payload = dict(row.payload)
            if row.kind == "publish" and row.published is not None:
                name = payload.get("name")
                lost = names.CANDIDATE not in aliases.get(str(name), {}) and last[name] == row.id
                payload |= {} if lost else {"alias": None}
            self._rows.append(_Row(row.id, row.kind, payload))
        self._rows.sort(key=lambda row: (row.kind != "study", row.kind == "front", row.id))

    def outbox(self) -> Sequence[OutboxRow]:
        return tuple(self._rows)

    def hold(self) -> None:
        self._log.hold()

    def mark_published(self, row_id: int) -> None:
        self._rows = [row for row in self._rows if row.id != row_id]
        self._log.mark_published(row_id)
        while not self._rows and self._passed_over:
            self._log.mark_published(self._passed_over.pop())

    def mark_failed_attempt(self, row_id: int, error: str) -> None:
        self.trouble[row_id] = error
        self._log.mark_failed_attempt(row_id, error)

    def trials(self) -> Sequence[TrialRecord]:
        return self._log.trials()
