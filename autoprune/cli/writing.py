"""`autoprune init`, `autoprune schema`, `autoprune --version`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from autoprune.cli.output import JsonFlag, console, emit
from autoprune.errors import BadInput


def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("spec.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a commented spec to start from."""
    from autoprune.spec.template import TEMPLATE

    if path.exists() and not force:
        raise BadInput(f"{path} exists; --force overwrites it")
    try:
        path.write_text(TEMPLATE)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from error
    if json:
        emit({"written": str(path)})
    else:
        console().print(f"wrote {path}; edit it, then: autoprune validate {path}")


def schema(
    document: Annotated[Literal["spec", "policy", "space"], typer.Argument(help="Which document's schema.")] = "spec",
    json: JsonFlag = False,
) -> None:
    """The JSON Schema of a document, for editors. Always one JSON document."""
    from autoprune.schema import schema_of

    emit(schema_of(document))


def version(value: bool) -> None:
    """Callback of --version."""
    if value:
        import autoprune

        console().print(autoprune.__version__)
        raise typer.Exit
