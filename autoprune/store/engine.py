"""Engines: one URL in, one engine out that behaves the same on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.schema import CreateSchema

from autoprune.errors import AutoPruneError, BadInput
from autoprune.outage import Patience
from autoprune.redact import redacted
from autoprune.store.faults import UnstorableError, translated

BUSY_SECONDS = 30
_SEARCH_PATH = re.compile(r"search_path=\"?(\w+)")
WRITES = "autoprune_writes"


def open_engine(url: str) -> Engine:
    """An engine for `url`; SQLite gets its folder, WAL, a busy timeout and foreign keys. Connects to nothing yet."""
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        _make_folder(parsed)
    try:
        engine = create_engine(parsed, json_serializer=to_json, pool_pre_ping=parsed.get_backend_name() != "sqlite")
    except ModuleNotFoundError as error:
        raise BadInput(
            f"store {shown(parsed)}: the driver '{error.name}' is not installed; pip install 'autoprune[postgres]'"
        ) from error
    if parsed.get_backend_name() == "sqlite":
        _tune_sqlite(engine)
    else:
        _wait_for_server(engine)
    return engine


def writing(engine: Engine) -> Engine:
    """The same engine, but its transactions take the write lock when they begin.

    A SQLite transaction that reads first and writes later fails at once, whatever the busy timeout, if somebody wrote
    in between; one that begins by taking the lock waits its turn.
    """
    return engine.execution_options(**{WRITES: True})


def in_schema(url: str, schema: str) -> str:
    """The same PostgreSQL database with `schema` (made if needed) in front: tables of another program that has its own
    `alembic_version` live there beside ours. Where the URL itself names a schema, that name is put before it, so that
    two stores in one database stay apart."""
    parsed = _parse(url)
    own = _SEARCH_PATH.search(str(parsed.query.get("options", "")))
    schema = schema if own is None else f"{own[1]}_{schema}"
    engine = open_engine(url)
    with translated(shown(parsed), f"making the schema '{schema}'"), engine.begin() as connection:
        connection.execute(CreateSchema(schema, if_not_exists=True))
    engine.dispose()
    return parsed.update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)


def shown(url: URL) -> str:
    """A URL for messages, its password hidden."""
    return redacted(url.render_as_string(hide_password=True))


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise BadInput(
            "the store is not named by a database URL; allowed: sqlite:///path/autoprune.db, postgresql+psycopg://user@host/name"
        ) from error
    if backend not in ("sqlite", "postgresql"):
        raise BadInput(f"store {shown(parsed)}: '{backend}' is not supported; allowed: sqlite, postgresql")
    if backend == "sqlite" and (parsed.database or ":memory:") == ":memory:":
        raise BadInput(f"store '{url}' lives in memory only; name a file: sqlite:///path/autoprune.db")
    return parsed


def _make_folder(url: URL) -> None:
    name = str(url.database)
    if name.startswith("file:"):  # an SQLite URI says itself how it wants to be opened
        return
    folder = Path(name).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AutoPruneError(f"{shown(url)}: the folder {folder} cannot be made: {error.strerror}") from error


def _wait_for_server(engine: Engine) -> None:
    patience = Patience(f"the store {shown(engine.url)}")

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _record: Any, arguments: Any, settings: Any) -> Any:
        return patience.connect(lambda: dialect.connect(*arguments, **settings))


def _tune_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # or the driver would begin and commit on its own, also around DDL
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        connection.execute("PRAGMA foreign_keys = ON")
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode = WAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITES) else "BEGIN")


def to_json(value: Any) -> str:
    """Exact for floats (shortest form that reads back the same); refuses NaN and infinities, which are not JSON."""
    try:
        return json.dumps(value, allow_nan=False, default=_plain)
    except ValueError as error:
        raise UnstorableError(f"a number in it is not finite ({error})") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
