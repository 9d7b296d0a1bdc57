"""`autoprune doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.output import JsonFlag, console, emit

Spec = Annotated[Path | None, typer.Argument(metavar="[SPEC]", help="Look at this spec's places too.")]


def doctor(spec: Spec = None, json: JsonFlag = False) -> None:
    """Look whether everything is there that a search needs, and say what to do where it is not. Exit 1 if something
    fails."""
    from autoprune import api

    found = api.doctor(spec)
    ok = not any(one["state"] == "fail" for one in found)
    if json:
        emit({"ok": ok, "findings": found})
    else:
        for one in found:
            console().print(f"{one['state']:<5}{one['name']}: {one['said']}", soft_wrap=True)
            if one["todo"]:
                console().print(f"     -> {one['todo']}", soft_wrap=True)
    if not ok:
        raise typer.Exit(1)
