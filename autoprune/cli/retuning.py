"""`autoprune retune` and `autoprune watch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autoprune.cli.output import JsonFlag, console, emit, notes
from autoprune.cli.searching import SpecPath

if TYPE_CHECKING:
    from autoprune.retune.once import Retuned

Executor = Annotated[str | None, typer.Option(help="Instead of the spec's: auto, inline, ray or ray-tune.")]
Address = Annotated[str | None, typer.Option(help="Join this Ray cluster: host:port, ray://host:port, or auto.")]


def retune(
    spec: SpecPath,
    once: Annotated[bool, typer.Option("--once", help="Look once and end (what it does anyway; see watch).")] = True,
    force: Annotated[bool, typer.Option("--force", help="Measure again even if nothing has changed.")] = False,
    executor: Executor = None,
    address: Address = None,
    json: JsonFlag = False,
) -> None:
    """Measure the served policy again where its model changed: re-certify it, or search and promote a better one."""
    from autoprune.cli.progress import LiveObserver
    from autoprune.retune.once import retune as run

    with LiveObserver() as observer:
        done = run(spec, observer=observer, executor=executor, address=address, force=force)
    if json:
        emit(done.to_json())
    else:
        show(done)
    if not done.good:
        raise typer.Exit(1)


def show(done: Retuned) -> None:
    """What became of it, in lines."""
    out = console()
    for trigger in done.triggers:
        out.print(f"changed: {trigger.text}")
    for what, some in done.comparisons.items():
        for one in some:
            out.print(f"{_WHAT[what]}: {one.text}", soft_wrap=True)
    moved = f"version {done.before}"
    if done.champion != done.before:
        moved += f" -> {done.champion}"
    out.print(f"{done.result}: models:/{done.name}@champion is {moved}; {done.reason}", soft_wrap=True)
    if done.candidate is not None:
        out.print(f"models:/{done.name}/{done.candidate} was found, and waits as @candidate", soft_wrap=True)
    for line in done.notes:
        notes().print(line)


_WHAT = {
    "model": "unpruned model, then and now",
    "old self": "champion, then and now",
    "champion": "champion and what was found, now",
}


def watch(spec: SpecPath, executor: Executor = None, address: Address = None) -> None:
    """Retune at the times of the spec's `retune.every`, until interrupted. Missed times are caught up with once."""
    from autoprune.retune.once import retune as run
    from autoprune.retune.watching import watch as keep_watching

    out = notes()
    keep_watching(spec, lambda: show(run(spec, executor=executor, address=address)), say=out.print)
