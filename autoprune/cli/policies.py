"""`autoprune policy …`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from autoprune.cli.output import JsonFlag, console, emit, notes, number, table
from autoprune.document.yaml import inline

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)
Uri = Annotated[str, typer.Argument(help="models:/NAME@alias, a folder, a YAML file or a catalog name.")]
Registered = Annotated[str, typer.Argument(help="models:/NAME@alias or models:/NAME/VERSION.")]
Name = Annotated[str, typer.Argument(help="The registered policy: NAME or models:/NAME.")]
Tracking = Annotated[str | None, typer.Option("--tracking-uri", help="MLflow's URI.")]


@app.command("list")
def list_(tracking_uri: Tracking = None, json: JsonFlag = False) -> None:
    """Catalog policies, and registered ones where a registry is found."""
    from autoprune import api

    listing = api.list_policies(tracking_uri)
    if json:
        emit(listing)
        return
    out = console()
    rows = [(p["name"], p["sites"], p["paper"]) for p in listing["catalog"]]
    out.print(table("catalog", ("name", "sites", "paper"), rows))
    if listing["registered"]:
        versions = [(r["name"], r["version"], " ".join(r["aliases"]), r["policy"]) for r in listing["registered"]]
        out.print(table("registered", ("name", "version", "aliases", "policy"), versions))


@app.command()
def show(policy: Uri, tracking_uri: Tracking = None, json: JsonFlag = False) -> None:
    """A policy's document and what is known of it."""
    from autoprune import api

    shown = api.show_policy(policy, tracking_uri)
    if json:
        emit(shown)
        return
    console().print(shown["yaml"].rstrip(), markup=False)
    for key, value in shown["metadata"].items():
        notes().print(f"{key}: {value}", markup=False)


@app.command()
def diff(a: Uri, b: Uri, tracking_uri: Tracking = None, json: JsonFlag = False) -> None:
    """What differs between two policies."""
    from autoprune import api

    changes = api.diff_policies(a, b, tracking_uri)
    if json:
        emit({"changes": changes})
        return
    if not changes:
        console().print("no difference")
    for change in changes:
        before, after = (_written(change[side]) for side in ("before", "after"))
        console().print(f"{change['path']}: {before} -> {after}", markup=False, soft_wrap=True)


def _written(value: object) -> str:
    """A value as a document has it."""
    return "(absent)" if value is None else inline(value)


@app.command()
def promote(policy: Registered, tracking_uri: Tracking = None, json: JsonFlag = False) -> None:
    """Make a registered version the champion; the champion so far becomes previous."""
    from autoprune import api

    _moved(api.promote(policy, tracking_uri), json)


@app.command()
def rollback(policy: Name, tracking_uri: Tracking = None, json: JsonFlag = False) -> None:
    """Make the previous champion the champion again."""
    from autoprune import api

    _moved(api.rollback(policy, tracking_uri), json)


def _moved(moved: Mapping[str, Any], json: bool) -> None:
    if json:
        emit(moved)
    else:
        console().print(
            f"{moved['name']}: champion is version {moved['champion']} (previous: {moved['previous'] or 'none'})"
        )


@app.command()
def history(policy: Name, tracking_uri: Tracking = None, json: JsonFlag = False) -> None:
    """Where every version came from, what was proven of it, and every move of the champion."""
    from autoprune import api

    told = api.policy_history(policy, tracking_uri)
    if json:
        emit(told)
        return
    out = console()
    columns = ("version", "aliases", "cause", "parent", "policy", "budget", "verdict", "made", "study")
    out.print(table(told["name"], columns, [_version(version) for version in told["versions"]]))
    for version in told["versions"]:
        if version["why"]:
            out.print(f"version {version['version']}, because: {version['why']}", soft_wrap=True)
        if version["retune"]:
            out.print(f"version {version['version']}, decided: {_decided(version['retune'])}", soft_wrap=True)
    if told["moves"]:
        moves = [
            (m["kind"], _arrow(m), m["at"], m["by"], "" if m["state"] == "done" else m["state"]) for m in told["moves"]
        ]
        out.print(table("moves of the champion", ("", "from -> to", "when", "by", ""), moves))
    if told["unrecorded"]:
        out.print("the champion alias was last moved by something else than autoprune: that move is not recorded")


def _version(version: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(version["version"]),
        " ".join(version["aliases"]),
        version["cause"],
        str(version["parent"] or ""),
        version["policy"] or "",
        number(version["budget"]),
        "\n".join(version["verdicts"]),
        version["created"],
        version["study"] or "",
    )


def _decided(judged: Mapping[str, str]) -> str:
    return f"{judged['decision']}: {judged['reason']}"


def _arrow(move: Mapping[str, Any]) -> str:
    return f"{move['before']['champion'] or 'none'} -> {move['after']['champion']}"


@app.command()
def time(
    policy: Annotated[str, typer.Argument(help="models:/NAME@alias, models:/NAME/VERSION or a saved folder.")],
    image: Annotated[list[Path], typer.Option(help="An image of a typical request; may be given several times.")],
    prompt: Annotated[str, typer.Option(help="Its question.")],
    model: Annotated[
        str | None, typer.Option(help="Model folder or hub id; default: the one the policy was made for.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    rounds: Annotated[int, typer.Option(min=2, help="How often each is timed; the median counts.")] = 15,
    tracking_uri: Tracking = None,
    json: JsonFlag = False,
) -> None:
    """Time the certified policies of a front on this machine: what load_policy(max_prefill_ms=…) goes by."""
    from autoprune import api

    images = [str(path) for path in image]
    taken = api.time_policy(
        policy, images, prompt, model=model, device=device, rounds=rounds, tracking_uri=tracking_uri
    )
    if json:
        emit(taken)
        return
    rows = [("unpruned", f"{taken['unpruned']:.1f}", "")]
    for digest, ms in taken["prefill_ms"].items():
        low, high = taken["spread"][digest]
        rows.append((taken["names"][digest], f"{ms:.1f}", f"{low:.1f} to {high:.1f}"))
    console().print(table(f"{taken['policy']} on {taken['device']}", ("policy", "prefill ms", "quartiles"), rows))


@app.command()
def export(
    policy: Uri,
    folder: Annotated[Path, typer.Argument(help="The folder to write.")],
    tracking_uri: Tracking = None,
    json: JsonFlag = False,
) -> None:
    """Write a policy as plain files: policy.yaml and metadata.json."""
    from autoprune import api

    written = api.export_policy(policy, folder, tracking_uri)
    if json:
        emit(written)
    else:
        console().print(f"wrote {written['folder']}: {', '.join(written['files'])}")
