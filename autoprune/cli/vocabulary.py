"""`autoprune parts`, `autoprune objectives` and `autoprune strategies`."""

from __future__ import annotations

from typing import Annotated

import typer

from autoprune.cli.output import JsonFlag, console, emit, table


def parts(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One part, with its parameters.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page of Markdown.")] = False,
    json: JsonFlag = False,
) -> None:
    """What a policy can be made of: criteria, selectors, groups, count rules and mergers."""
    from autoprune import api
    from autoprune.api import vocabulary

    listed = api.list_parts(name)
    if json:
        emit(listed)
    elif markdown:
        typer.echo(vocabulary.markdown(listed), nl=False)
    elif name is None:
        rows = [(p["kind"], p["name"], p["signal_tier"], ", ".join(p["sites"]), p["summary"]) for p in listed]
        console().print(table(None, ("kind", "name", "tier", "sites", "what it does"), rows))
    else:
        for part in listed:
            _show(part)


def objectives(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page of Markdown.")] = False,
    json: JsonFlag = False,
) -> None:
    """What a search can be for, by name, and what each needs."""
    from autoprune import api
    from autoprune.api import objectives as page

    listed = api.list_objectives()
    if json:
        emit(listed)
    elif markdown:
        typer.echo(page.markdown(listed), nl=False)
    else:
        console().print(table(None, page.COLUMNS, map(page.row, listed)))


def strategies(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One strategy, with its options.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a page of Markdown.")] = False,
    json: JsonFlag = False,
) -> None:
    """How a study can be searched, and what each way takes."""
    from autoprune import api
    from autoprune.api import strategies as page

    listed = api.list_strategies(name)
    if json:
        emit(listed)
    elif markdown:
        typer.echo(page.markdown(listed), nl=False)
    elif name is None:
        console().print(table(None, page.COLUMNS, map(page.row, listed)))
    else:
        typer.echo(page.markdown(listed).partition("\n## ")[2], nl=False)


def _show(part: dict[str, object]) -> None:
    from autoprune.api.vocabulary import parameter_text

    out = console()
    out.print(f"{part['name']} ({part['kind']}, {part['signal_tier']})", style="bold", markup=False, highlight=False)
    out.print(str(part["summary"]), markup=False, highlight=False)
    parameters = part["parameters"]
    for key, spec in parameters.items() if isinstance(parameters, dict) else ():
        out.print(f"  {parameter_text(key, spec)}", markup=False, highlight=False)
    for text in (part["about"], f"Source: {part['paper']}" if part["paper"] else ""):
        if text:
            out.print(str(text), markup=False, highlight=False)
