"""The shipped sets of objectives: what each is for, and what it needs, as the registry of measures knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.api import state
from autoprune.document.yaml import read
from autoprune.errors import BadInput
from autoprune.measures import registry as measures
from autoprune.measures.requests import parse
from autoprune.policy import catalog
from autoprune.spec.expressions import parse_objective

COLUMNS = ("name", "objectives", "answers", "device", "what it is for")


def list_objectives(folders: Sequence[str | Path] | None = None) -> list[dict[str, Any]]:
    """Every set of objectives by name, the user's own included. Raises BadInput for one that cannot be read."""
    folders = state.user_folders("objectives") if folders is None else folders
    return [_described(catalog.find("objectives", name, folders)) for name in catalog.names("objectives", folders)]


def _described(path: Path) -> dict[str, Any]:
    data = read(path).data
    try:
        goals = [parse_objective(value) for value in data["objectives"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: not a document of objectives: {error}", code="wrong-schema") from error
    used = [parse(goal.measure) for goal in goals]
    return {
        "name": path.stem,
        "summary": data.get("summary", ""),
        "objectives": [goal.text for goal in goals],
        "needs_answers": any("answers" in one.needs for one in used),
        "needs_quiet_device": any(one.info.timed for one in used),
        "measures": {
            one.label: {"direction": one.info.direction, "kind": _kind(one.info), "summary": one.info.summary}
            for one in used
        },
    }


def _kind(info: measures.MeasureInfo) -> str:
    return "measured on each record" if info.by_record else "timed" if info.timed else "computed without running"


def row(one: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns of one set, as text."""
    device = "quiet, one worker each" if one["needs_quiet_device"] else "any"
    answers = "yes" if one["needs_answers"] else "no"
    return (one["name"], ", ".join(one["objectives"]), answers, device, one["summary"])


def markdown(listed: Sequence[Mapping[str, Any]]) -> str:
    """The sets of objectives as a page: `docs/objectives.md`."""
    lines = [
        "# Objectives",
        "",
        "What a search can be for, by name: `objectives: loyalty` in a spec. `autoprune objectives --markdown` prints",
        "this page. None needs a GPU. *answers*: every record must have one. *device*: any, with as many workers",
        "as you like, or a quiet one, where nothing else runs and that no two workers share.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    lines += ["| " + " | ".join((f"`{cells[0]}`", *cells[1:])) + " |" for cells in map(row, listed)]
    for one in listed:
        lines += ["", f"## {one['name']}", ""]
        lines += [
            f"- `{label}` ({about['direction']} is better, {about['kind']}): {about['summary']}"
            for label, about in one["measures"].items()
        ]
    return "\n".join(lines) + "\n"
