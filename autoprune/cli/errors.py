"""One place that turns errors into messages and exit codes: 0 fine, 1 failed, 2 bad input, 130 interrupted."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from typer.exceptions import TyperException

from autoprune.cli.output import emit
from autoprune.codes import Code
from autoprune.errors import AutoPruneError, BadInput, Located
from autoprune.redact import redacted


def located(problem: Located) -> dict[str, Any]:
    """A problem as `--json` shows it."""
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "path": problem.path,
        "code": problem.code,
        "message": problem.message,
    }


def report(error: AutoPruneError, *, as_json: bool) -> int:
    """Show a user's error; -> the exit code."""
    problems = error.problems if isinstance(error, BadInput) else ()
    code = error.code if isinstance(error, BadInput) else None
    if as_json:
        _emit([located(p) for p in problems] or [_unplaced(str(error), code)])
    elif problems:
        sys.stderr.write(f"error: {error}\n" if len(problems) == 1 else f"{len(problems)} errors:\n{error}\n")
    else:
        sys.stderr.write(f"error: {error}{'' if code in (None, BadInput.kind) else f' [{code}]'}\n")
    return 2 if isinstance(error, BadInput) else 1


CONTINUED = (
    "search",
    "compare",
    "retune",
    "watch",
)  # commands whose work is kept: the store remembers what was measured


def report_interrupted(command: str = "", *, as_json: bool) -> int:
    """Ctrl-C; -> exit code 130."""
    goes_on = "; the same command continues where this one stopped"
    message = "interrupted" + (goes_on if command in CONTINUED else "")
    if as_json:
        _emit([_unplaced(message)])
    else:
        sys.stderr.write(f"{message}\n")
    return 130


def _unplaced(message: str, code: Code | None = None) -> dict[str, Any]:
    return {"file": None, "line": None, "column": None, "path": "", "code": code, "message": message}


def _emit(problems: list[dict[str, Any]]) -> None:
    emit({"ok": False, "errors": problems})


def log_folder() -> Path:
    """Where tracebacks go: $XDG_STATE_HOME/autoprune, ~/.local/state/autoprune, or the temporary folder."""
    base = os.environ.get("XDG_STATE_HOME")
    for folder in (Path(base) if base else Path.home() / ".local" / "state", Path(tempfile.gettempdir())):
        try:
            (folder / "autoprune").mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        return folder / "autoprune"
    return Path.cwd()


def report_unexpected(error: BaseException, *, as_json: bool) -> int:
    """A bug or a failing machine: keep the whole traceback in a file and name it; -> exit code 1."""
    path = log_folder() / f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    text = redacted("".join(traceback.format_exception(error)))
    try:
        path.write_text(f"{redacted(' '.join(sys.argv))}\n\n{text}")
        where = f"traceback in {path}"
    except OSError:
        where = text
    message = f"unexpected {type(error).__name__}: {redacted(str(error))} ({where})"
    if as_json:
        _emit([_unplaced(message)])
    else:
        sys.stderr.write(f"error: {message}\n")
    return 1


def report_usage(error: TyperException, *, as_json: bool) -> int:
    """A wrong command line (unknown option, missing argument); -> exit code 2."""
    message = redacted(error.format_message())
    if as_json:
        _emit([_unplaced(message)])
    else:
        context = getattr(error, "ctx", None)
        usage = context.get_usage() if context is not None else ""
        # without arguments the message is the help itself
        sys.stderr.write(f"{message}\n" if message.startswith(usage) else f"{usage}\nerror: {message}\n")
    return 2
