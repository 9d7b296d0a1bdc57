"""`autoprune studies` and `autoprune front`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from autoprune.cli.output import JsonFlag, agreement, console, emit, interval, notes, number, table

Store = Annotated[str | None, typer.Option("--store", help="Database URL; default: the nearest .autoprune/ upward.")]


def studies(
    store: Store = None,
    json: JsonFlag = False,
) -> None:
    """The studies of this folder's store."""
    from autoprune import api

    found = api.studies(store)
    if json:
        emit({"studies": found})
        return
    rows = [(s["id"], s["state"], s["complete"], s["failed"], s["created"]) for s in found]
    console().print(table(None, ("study", "state", "trials", "failed", "created"), rows))


def front(
    study: Annotated[
        str | None, typer.Argument(help="A study's name, id (or its beginning), or a spec file; default: the latest.")
    ] = None,
    store: Store = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the front into this file (png, svg, pdf).")] = None,
    json: JsonFlag = False,
) -> None:
    """The policies that nothing beats, as measured on the holdout."""
    from autoprune import api

    document = api.front(study, store)
    if figure is not None:
        api.draw_front(study, figure, store)
    if json:
        emit(document)
    else:
        show_front(document)


def sync(
    study: Annotated[
        str | None, typer.Argument(help="A spec file, or a study's name, id (or its beginning); default: all.")
    ] = None,
    store: Store = None,
    tracking_uri: Annotated[str | None, typer.Option("--tracking-uri", help="MLflow's URI.")] = None,
    json: JsonFlag = False,
) -> None:
    """Make MLflow show what the store knows: what waits is published, what was lost is made again."""
    from autoprune import api

    done = api.sync(study, store, tracking_uri)
    if json:
        emit({"studies": done})
    else:
        for one in done:
            console().print(f"{one['study']}: {one['rows']} published, {one['waiting']} waiting")
            for line in one["trouble"]:
                notes().print(f"  {line}")
    if any(one["waiting"] for one in done):
        raise typer.Exit(1)


def show_front(document: Mapping[str, Any]) -> None:
    """The front for people: one row a policy, dearest first, with what the holdout proves; then how it came about."""
    from autoprune.search.remarks import looks

    out = console()
    members = document["members"]
    measured = members[0]["holdout"] if members else document["baseline"]["holdout"]
    labels = [label for label in measured if label != "budget"]
    arms = ("arm",) if any(member.get("arm") for member in members) else ()
    unpruned = (interval(document["baseline"]["holdout"].get(label)) for label in labels)
    rows = [("", "unpruned", *("" for _ in arms), "1", "", *unpruned)]
    for member in members:
        mark = "*" if member["selected"] else ""
        shown = (interval(member["holdout"].get(label)) for label in labels)
        arm = (member.get("arm", "") for _ in arms)
        rows.append((mark, member["policy"], *arm, number(member["budget"]), _verdicts(member), *shown))
    if members:
        out.print(table(f"{document['study']}: holdout", ("", "policy", *arms, "budget", "state", *labels), rows))
    else:
        out.print(f"{document['study']}: the front is empty")
    trials = document["trials"]
    out.print(f"{trials['complete']} trials complete, {trials['failed']} failed, {trials['running']} running")
    told = [*document.get("explanation", ()), *looks(document.get("holdout_uses", 0))]
    for line in (*told, *agreement(document.get("agreement", ()), "finalists")):
        out.print(line)


def _verdicts(member: Mapping[str, Any]) -> str:
    """One line a constraint."""
    from autoprune.search.remarks import verdict_text
    from autoprune.spec.expressions import parse_constraint

    proven = member.get("certifiable", {})
    lines = [verdict_text(parse_constraint(t), state, proven.get(t)) for t, state in member["constraints"].items()]
    return "\n".join(lines) or "no constraints"
