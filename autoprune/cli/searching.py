"""`autoprune search` and `autoprune validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli import errors
from autoprune.cli.output import JsonFlag, console, emit, notes, table
from autoprune.errors import BadInput

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec's YAML file.")]


def search(
    spec: SpecPath,
    trials: Annotated[int | None, typer.Option(min=1, help="Instead of the spec's search.trials.")] = None,
    executor: Annotated[str | None, typer.Option(help="Instead of the spec's: auto, inline, ray or ray-tune.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Join this Ray cluster: host:port, ray://host:port, or auto for the one here.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure what each layer can do without, and verify what follows; no more.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Search, certify and publish. An interrupted search continues."""
    from autoprune import api
    from autoprune.cli.progress import LiveObserver

    with LiveObserver() as observer:
        result = api.search(spec, observer=observer, trials=trials, executor=executor, address=address, quick=quick)
    if json:
        emit(result.front)
    else:
        from autoprune.cli.studies import show_front

        show_front(result.front)
        for line in result.notes:
            notes().print(line)
    if not result.published_or_certified:
        raise typer.Exit(1)


def validate(
    document: Annotated[Path, typer.Argument(metavar="FILE", help="A spec, a policy or a search space.")],
    model: Annotated[str | None, typer.Option(help="A folder or hub id: hold a policy or a space against it.")] = None,
    json: JsonFlag = False,
) -> None:
    """Check a spec, a policy or a search space against everything that can be known without running it."""
    from autoprune import api, check

    try:
        checked = check.check_any(document, model)
    except BadInput as error:
        if not json:
            raise
        emit({"ok": False, "errors": [errors.located(p) for p in error.problems] or [_unplaced(document, error)]})
        raise typer.Exit(2) from error
    warnings = checked.warnings
    if isinstance(checked, check.Checked):
        warnings = (*warnings, *api.lacking(checked.loaded))
    if json:
        emit({"ok": True, "errors": [], "warnings": [errors.located(w) for w in warnings]})
        return
    for warning in warnings:
        notes().print(f"warning: {warning}")
    console().print(table(None, ("", ""), checked.summary()))
    console().print(f"{document}: ok")


def _unplaced(spec: Path, error: BadInput) -> dict[str, object]:
    return {"file": str(spec), "line": 1, "column": 1, "path": "", "code": error.code, "message": str(error)}
