"""A registered policy's past: versions, where each came from, what was proven of it, and every move of the champion."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from autoprune.registry import client as mlflow_client
from autoprune.registry import names, policies
from autoprune.registry.aliases import moves

_INTERVAL = re.compile(r"(\S+) \[(\S+), (\S+)\]")


def history(tracking_uri: str, name: str) -> dict[str, Any]:
    """`versions` and `moves`, newest first. Each version: number, aliases, when, cause (search, recertified, retuned),
    parent version, study, selected policy, budget, holdout measurements and verdicts; of retuning `why` it was made,
    and what was last decided on it (`retune`). `unrecorded`: the champion was moved by something else than AutoPrune.
    Raises BadInput for an unknown name."""
    found = policies.versions(tracking_uri, name)
    with mlflow_client.service(tracking_uri, f"reading the history of {name!r}") as client:
        moved = moves(client, name)
    aliases = {alias: version.version for version in found for alias in version.aliases}
    last = next((move.after.champion for move in reversed(moved) if move.state == "done"), None)
    return {
        "name": name,
        "aliases": aliases,
        "unrecorded": aliases.get(names.CHAMPION) != last,
        "versions": [_told(version) for version in reversed(found)],
        "moves": [move.to_json() for move in reversed(moved)],
    }


def _told(version: policies.PolicyVersion) -> dict[str, Any]:
    tags = version.tags
    parent, budget = tags.get(names.LINEAGE_TAG), tags.get("autoprune.budget")
    return {
        "version": version.version,
        "aliases": list(version.aliases),
        "created": datetime.fromtimestamp(version.created / 1000, UTC).isoformat(timespec="seconds"),
        "cause": tags.get(names.CAUSE_TAG, names.SEARCH),
        "parent": int(parent) if parent else None,
        "study": tags.get(names.STUDY_TAG),
        "policy": tags.get("autoprune.policy"),
        "budget": None if budget is None else float(budget),
        "front": tags.get("autoprune.front"),
        "holdout": {key.removeprefix("holdout."): _estimate(v) for key, v in _under(tags, "holdout.")},
        "verdicts": [value for _, value in _under(tags, "constraint.")],
        "why": tags.get(f"{names.RETUNE_TAG}.why"),
        "retune": _judged(tags.get(names.RETUNE_TAG)),
    }


def _judged(text: str | None) -> dict[str, str] | None:
    """The last decision of a retuning on this version; what is none is left out."""
    try:
        found = json.loads(text or "null")
    except ValueError:
        return None
    return {**found} if isinstance(found, dict) and {"decision", "reason"} <= found.keys() else None


def _under(tags: Mapping[str, str], prefix: str) -> list[tuple[str, str]]:
    return sorted((key, value) for key, value in tags.items() if key.startswith(prefix))


def _estimate(text: str) -> dict[str, float | None] | str:
    """`0.95 [0.94, 0.96]` as numbers; what is written in another way stays text."""
    if (match := _INTERVAL.fullmatch(text)) is None:
        return text
    try:
        value, low, high = (None if part == "None" else float(part) for part in match.groups())
    except ValueError:
        return text
    return {"value": value, "low": low, "high": high}
