"""The one door to MLflow: imported here, kept quiet here, and its failures told apart here.

Nothing in this module touches MLflow's global state (`set_tracking_uri`, the active run): every call carries its URI.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from traceback import walk_tb
from typing import Any
from urllib.parse import urlsplit

from autoprune.errors import AutoPruneError, BadInput
from autoprune.redact import redacted

# MLflow reads its settings from the environment only. These are defaults: what the user has set stays.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
_CONNECT_SECONDS = 3.0
_START_SECONDS = 5  # whole seconds: MLflow reads an integer
_LIBRARIES = {"mlflow", "sqlalchemy", "alembic"}
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
# A server that says this about a request will say it again: waiting does not help.
_FINAL = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "MALFORMED_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "FEATURE_DISABLED",
    "NOT_IMPLEMENTED",
}


def installed() -> bool:
    """Whether MLflow can be imported (without importing it)."""
    return importlib.util.find_spec("mlflow") is not None


def quiet() -> None:
    """Defaults that keep MLflow silent and impatient. Call before MLflow is imported."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    for logger in ("alembic", "mlflow.store.db", "mlflow.tracking", "mlflow.store.model_registry"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of what we say in one line


def require() -> None:
    """Raise BadInput if MLflow is not installed."""
    if not installed():
        raise BadInput(
            "MLflow is not installed, and the registry needs it: pip install 'autoprune[mlflow]'", code="not-installed"
        )


def connect(uri: str) -> Any:
    """An `MlflowClient` whose tracking store and registry are both at `uri`.

    Raises BadInput if MLflow is not installed. No server is called, but a database is opened (and made, for SQLite).
    """
    require()
    quiet()
    from mlflow import MlflowClient

    if (path := sqlite_path(uri)) is not None and not path.exists():
        _make(path)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _make(path: Path) -> None:
    """A new database of MLflow's: whole, or not there. Its tables take seconds to make, and half of them would be
    refused for ever; a kill meanwhile leaves only a file that nobody opens."""
    from mlflow import MlflowClient

    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    uri = f"sqlite:///{fresh}"
    MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)
    fresh.replace(path)


def is_failure(error: BaseException) -> bool:
    """Whether MLflow, what lies beneath it (databases, S3, Azure, …) or the network failed (and not our own code).

    Told by where the class comes from, or by the call in which it was raised: stores of artifacts bring exceptions of
    their own, whose libraries are MLflow's business and not imported here.
    """
    origins = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or not origins.isdisjoint(_LIBRARIES) or _inside_mlflow(error)


def _inside_mlflow(error: BaseException) -> bool:
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return any(str(frame.f_globals.get("__name__")).partition(".")[0] == "mlflow" for frame in frames)


def is_final(error: BaseException) -> bool:
    """Whether the request itself was refused (True), rather than the service being away (False)."""
    return getattr(error, "error_code", None) in _FINAL


def is_missing(error: BaseException) -> bool:
    """Whether the answer was 'there is no such thing'."""
    return getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def one_line(error: BaseException) -> str:
    """The reason in one readable line."""
    text = redacted(re.sub(r"\s+", " ", str(error)).strip()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def shown(uri: str) -> str:
    """The URI without a password, for messages."""
    return redacted(uri)


@contextlib.contextmanager
def service(uri: str, action: str) -> Iterator[Any]:
    """A client for one action. MLflow's failures become one AutoPruneError: what was attempted, where, why it failed.

    Raises BadInput if there is no MLflow, or if a SQLite URI names no file (one would be made otherwise).
    """
    require()
    if (path := sqlite_path(uri)) is not None and not path.is_file():
        raise BadInput(f"{action} failed: there is no MLflow database at {path}", code="no-registry")
    if (reason := unreachable(uri)) is not None:
        raise AutoPruneError(f"{action} failed at {shown(uri)}: {reason}")
    try:
        yield connect(uri)
    except Exception as error:
        if not is_failure(error):
            raise
        raise AutoPruneError(f"{action} failed at {shown(uri)}: {one_line(error)}") from error


# -------------------------------------------------------------------------------------------------------- reachability
def sqlite_path(uri: str) -> Path | None:
    """The database file behind a SQLite URI, or None for any other URI."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").split("?", 1)[0])


def unreachable(uri: str) -> str | None:
    """Why nothing can be behind `uri` right now, or None if something answers. Takes a few seconds at most.

    Only the connection is tried (a TCP connect, or the folder of a SQLite file), so that a long retry loop inside
    MLflow is never entered for a host that is away.
    """
    if (path := sqlite_path(uri)) is not None:
        return _sqlite_problem(path)
    parts = urlsplit(uri)
    scheme = parts.scheme.split("+", 1)[0]
    if scheme not in _PORTS or parts.hostname is None:
        return None
    try:
        port = parts.port or _PORTS[scheme]
    except ValueError as error:
        return str(error)
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        return f"no connection to {parts.hostname}:{port} ({error.strerror or one_line(error)})"
    return None


def check_reachable(uri: str) -> None:
    """Raise BadInput with the URI and the reason unless an MLflow tracking store answers there within seconds."""
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file"):
        raise BadInput(
            f"the MLflow tracking URI {uri!r} is a plain folder, which MLflow no longer supports; "
            "use sqlite:///<path>/mlflow.db or the URL of a server",
            code="no-registry",
        )
    require()
    if (reason := unreachable(uri)) is None:
        try:
            with _hurried():
                connect(uri).search_experiments(max_results=1)
        except Exception as error:
            if not is_failure(error):
                raise
            reason = one_line(error)
    if reason is not None:
        raise BadInput(
            f"the MLflow tracking URI {shown(uri)} cannot be reached: {reason}. Start the server, correct the URI, "
            "or unset it to keep the tracking data beside the spec",
            code="no-registry",
        )


@contextlib.contextmanager
def _hurried() -> Iterator[None]:
    """One short try per request: at the start a person is waiting."""
    wanted = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(_START_SECONDS), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _sqlite_problem(path: Path) -> str | None:
    """Why this file cannot be MLflow's database. A foreign one is caught before MLflow half migrates it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"the folder {path.parent} cannot be made ({error.strerror})"
    if not path.exists():
        return None if os.access(path.parent, os.W_OK) else f"the folder {path.parent} is not writable"
    try:
        database = sqlite3.connect(path, timeout=_CONNECT_SECONDS)
        with contextlib.closing(database):
            tables = {row[0] for row in database.execute("select name from sqlite_master where type = 'table'")}
    except sqlite3.Error as error:
        return f"{path} is not a usable SQLite database ({error})"
    if tables and "experiments" not in tables:
        return f"{path} holds another program's tables; MLflow needs a database of its own"
    return None
