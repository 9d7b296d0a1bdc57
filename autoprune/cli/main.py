"""The `autoprune` command. Commands call `autoprune.api` and show what it returns; no logic lives here."""

from __future__ import annotations

import signal
import sys
from contextlib import nullcontext

import typer
from typer.exceptions import Abort, TyperException

from autoprune.cli import (
    comparing,
    doctor,
    errors,
    explaining,
    policies,
    retuning,
    run_policy,
    searching,
    studies,
    vocabulary,
    writing,
)
from autoprune.cli.output import document_only
from autoprune.errors import AutoPruneError

INTERRUPTED = 130

app = typer.Typer(
    name="autoprune",
    help="Find, certify and serve visual-token pruning policies for multimodal models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("search")(searching.search)
app.command("retune")(retuning.retune)
app.command("watch")(retuning.watch)
app.command("validate")(searching.validate)
app.command("doctor")(doctor.doctor)
app.command("init")(writing.init)
app.command("schema")(writing.schema)
app.command("studies")(studies.studies)
app.command("front")(studies.front)
app.command("sync")(studies.sync)
app.command("compare")(comparing.compare)
app.command("methods")(comparing.methods)
app.command("parts")(vocabulary.parts)
app.command("objectives")(vocabulary.objectives)
app.command("strategies")(vocabulary.strategies)
app.command("explain")(explaining.explain)
app.command("run")(run_policy.run)
app.add_typer(policies.app, name="policy", help="Policies: catalog, registry, diff, promote, export.")


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", help="Show the version.", is_eager=True, callback=writing.version),
) -> None:
    return None


def run(arguments: list[str] | None = None) -> None:
    """The console script: runs one command and exits with 0, 1, 2 or 130. Who ends it politely (a container's SIGTERM)
    is answered as Ctrl-C is."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(main(given))


def main(arguments: list[str]) -> int:
    """-> exit code. User errors become messages; anything unexpected keeps its traceback in a log file."""
    as_json = "--json" in arguments
    with document_only() if as_json else nullcontext():
        return _run(arguments, as_json)


def _run(arguments: list[str], as_json: bool) -> int:
    try:
        code = app(args=arguments, standalone_mode=False, prog_name="autoprune")
        if code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            return errors.report_interrupted(next(iter(arguments), ""), as_json=as_json)
        return code if isinstance(code, int) else 0
    except AutoPruneError as error:
        return errors.report(error, as_json=as_json)
    except TyperException as error:
        return errors.report_usage(error, as_json=as_json)
    except (KeyboardInterrupt, Abort):
        return errors.report_interrupted(next(iter(arguments), ""), as_json=as_json)
    except Exception as error:  # noqa: BLE001  (the last line of defence: the traceback goes to a file, the exit code is 1)
        return errors.report_unexpected(error, as_json=as_json)
