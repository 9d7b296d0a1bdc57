"""`autoprune explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.output import JsonFlag, console, emit, table


def explain(
    code: Annotated[str | None, typer.Argument(metavar="[CODE]", help="A code such as unknown-key.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page of Markdown.")] = False,
    json: JsonFlag = False,
) -> None:
    """What the code at the end of an error means, and what to do about it."""
    from autoprune import api
    from autoprune.api import mistakes as page

    listed = api.list_codes(code)
    if json:
        emit(listed)
    elif markdown:
        typer.echo(page.markdown(listed), nl=False)
    elif code is None:
        console().print(table(None, page.COLUMNS, [(one["code"], one["means"]) for one in listed]))
    else:
        typer.echo(page.text(listed[0]))
