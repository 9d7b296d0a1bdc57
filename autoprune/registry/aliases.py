"""What is served, and how that changed: the aliases champion and previous, and a record of every move.

MLflow moves one alias at a time. So a move is written down first, then `previous` is set, then `champion`: the move has
happened when `champion` has. One that was cut short before that is taken back when the next one begins, a minute later
at the earliest: until then it may be under way elsewhere. Two that begin at once see each other's record, and give up.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from autoprune.errors import AutoPruneError, BadInput
from autoprune.registry import client as mlflow_client
from autoprune.registry import names, policies

Kind = Literal["promote", "rollback"]
State = Literal["done", "interrupted"]
_UNDER_WAY = 60.0  # seconds for which a move that has begun may be at work
_KEPT = 200  # moves that are remembered: each is a tag of the registered model


@dataclass(frozen=True)
class Promotion:
    """What a move changed: `version` is the champion now, `previous` was it before (None = there was none)."""

    name: str
    version: int
    previous: int | None


@dataclass(frozen=True)
class Places:
    """Which versions the two aliases name."""

    champion: int | None
    previous: int | None


@dataclass(frozen=True)
class Move:
    """One move of the champion: from where, to where, when (UTC, ISO 8601) and by whom. An `interrupted` one never
    reached the champion."""

    kind: Kind
    before: Places
    after: Places
    at: str
    by: str
    state: State

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def promote(tracking_uri: str, name: str, version: int | str, *, by: str | None = None) -> Promotion:
    """Make a version (a number, or an alias such as `candidate`) the champion; the old champion becomes `previous`.

    Promoting the champion again changes nothing. `by`: who or what does it (default: this user). Raises BadInput for an
    unknown name, version or alias.
    """
    chosen = policies.resolve(f"models:/{name}{'/' if str(version).isdigit() else '@'}{version}", tracking_uri)
    with mlflow_client.service(tracking_uri, f"promoting {name!r}") as client:
        before = _settled(client, name)
        if before.champion == chosen.version:
            return Promotion(name, chosen.version, before.previous)
        _move(client, name, "promote", before, chosen.version, by)
    return Promotion(name, chosen.version, before.champion)


def rollback(tracking_uri: str, name: str, *, by: str | None = None) -> Promotion:
    """Make `previous` the champion again; the champion so far becomes `previous`. Raises BadInput where there is no
    previous one."""
    policies.versions(tracking_uri, name)  # an unknown name is said with a suggestion
    with mlflow_client.service(tracking_uri, f"rolling back {name!r}") as client:
        before = _settled(client, name)
        if before.previous is None or before.previous == before.champion:
            raise BadInput(f"{name!r} has no previous champion to go back to", code="unknown-name")
        _move(client, name, "rollback", before, before.previous, by)
    return Promotion(name, before.previous, before.champion)


def moves(client: Any, name: str) -> list[Move]:
    """All recorded moves, oldest first, each with what became of it."""
    model = client.get_registered_model(name)
    now = _places(model)
    read = [_read(value) for _, value in _records(model)]
    return [_judged(record, now) for record in read]


# ------------------------------------------------------------------------------------------------------------- details
def _move(client: Any, name: str, kind: Kind, before: Places, to: int, by: str | None) -> None:
    """The order matters: see the head of this file."""
    after = Places(to, before.champion if before.champion is not None else before.previous)
    key = f"{names.MOVE_TAG}.{time.time_ns():020d}"
    record = {
        "kind": kind,
        "before": asdict(before),
        "after": asdict(after),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": by or _somebody(),
        "state": "begun",
    }
    client.set_registered_model_tag(name, key, json.dumps(record))
    _undisturbed(client, name, key, record, before)
    if after.previous is not None and after.previous != before.previous:
        client.set_registered_model_alias(name, names.PREVIOUS, str(after.previous))
        _undisturbed(client, name, key, record, Places(before.champion, after.previous))
    client.set_registered_model_alias(name, names.CHAMPION, str(to))
    client.set_registered_model_tag(name, key, json.dumps({**record, "state": "done"}))
    for old, _ in _records(client.get_registered_model(name))[:-_KEPT]:
        client.delete_registered_model_tag(name, old)


def _undisturbed(client: Any, name: str, key: str, record: Mapping[str, Any], expected: Places) -> None:
    """Raises AutoPruneError, and strikes out our own record, if somebody else moves the champion at the same time."""
    model = client.get_registered_model(name)
    others = [_read(value) for other, value in _records(model) if other != key and _age(other) < _UNDER_WAY]
    if _places(model) == expected and all(other["state"] != "begun" for other in others):
        return
    client.set_registered_model_tag(name, key, json.dumps({**record, "state": "interrupted"}))
    raise AutoPruneError(f"the champion of {name!r} is being moved by somebody else just now; look, and try again")


def _age(key: str) -> float:
    """Seconds since a move began, by the clock of who began it."""
    return (time.time_ns() - int(key.rpartition(".")[2])) / 1e9


def _settled(client: Any, name: str) -> Places:
    """Where the aliases are, once a move that was cut short is finished or taken back. Raises AutoPruneError where one
    may still be under way."""
    model = client.get_registered_model(name)
    now, records = _places(model), _records(model)
    if not records:
        return now
    key, value = records[-1]
    record = _read(value)
    if record["state"] != "begun":
        return now
    judged = _judged(record, now)
    if judged.state == "interrupted" and _age(key) < _UNDER_WAY:
        raise AutoPruneError(
            f"the champion of {name!r} is being moved by {judged.by} (since {judged.at}); "
            f"if that was cut short, try again in {_UNDER_WAY - _age(key):.0f} s"
        )
    taken_back = judged.state == "interrupted" and now == Places(judged.before.champion, judged.after.previous)
    if taken_back and now.previous != judged.before.previous:
        if judged.before.previous is None:
            client.delete_registered_model_alias(name, names.PREVIOUS)
        else:
            client.set_registered_model_alias(name, names.PREVIOUS, str(judged.before.previous))
        now = judged.before
    client.set_registered_model_tag(name, key, json.dumps({**record, "state": judged.state}))
    return now


def _judged(record: Mapping[str, Any], now: Places) -> Move:
    """What became of a move: one that only begun has happened if the champion is where it was to go."""
    before, after = Places(**record["before"]), Places(**record["after"])
    state: State = "done" if record["state"] == "done" else "interrupted"
    if record["state"] == "begun" and now.champion == after.champion:
        state = "done"
    return Move(record["kind"], before, after, record["at"], record["by"], state)


def _records(model: Any) -> list[tuple[str, str]]:
    """(tag, JSON) of the moves, oldest first."""
    tags = {key: value for key, value in dict(model.tags).items() if key.startswith(f"{names.MOVE_TAG}.")}
    return sorted(tags.items())


def _read(value: str) -> dict[str, Any]:
    try:
        record = json.loads(value)
        if not {"kind", "before", "after", "at", "by", "state"} <= record.keys():
            raise ValueError("keys are missing")
    except (ValueError, AttributeError) as error:
        raise BadInput(f"a record of an alias move is damaged ({error}): {value[:80]}", code="wrong-form") from error
    return dict(record)


def _places(model: Any) -> Places:
    aliases = policies.aliases_of(model)
    return Places(aliases.get(names.CHAMPION), aliases.get(names.PREVIOUS))


def _somebody() -> str:
    """user@host; a container's user may have no name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
