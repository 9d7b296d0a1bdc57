"""Bringing a database to this version's tables by running the migrations in `db/`."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, inspect, text

import autoprune
from autoprune.errors import AutoPruneError, BadInput
from autoprune.store.engine import shown, writing

FOREIGN = "alembic_version"
OWNERS = {"registered_models": "MLflow", "study_directions": "Optuna"}
_LOCK = 0x6175746F  # any constant: the advisory lock under which one process at a time migrates a PostgreSQL schema


def migrations() -> Path:
    """The folder of migrations: inside the installed package, or beside it in a checkout."""
    package = Path(autoprune.__file__).parent
    for folder in (package / "db", package.parent / "db"):
        if (folder / "env.py").is_file() and (folder / "versions").is_dir():
            return folder
    raise AutoPruneError(f"the migrations are missing: neither {package / 'db'} nor {package.parent / 'db'} holds them")


def configuration(connection: Connection) -> Config:
    """Alembic's configuration for one open connection; the caller owns the transaction."""
    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def migrate(engine: Engine) -> None:
    """Create or upgrade the tables, all in one transaction. A second process waits and then finds nothing to do."""
    with writing(engine).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _LOCK})
        _refuse_foreign(connection)
        try:
            command.upgrade(configuration(connection), "head")
        except CommandError as error:
            if "Can't locate revision" not in str(error):
                raise
            raise AutoPruneError(
                f"{shown(engine.url)}: written by a newer AutoPrune ({error}); upgrade this installation"
            ) from error


def _refuse_foreign(connection: Connection) -> None:
    """Optuna and MLflow keep their own Alembic table here and refuse to start next to each other: so do we."""
    tables = set(inspect(connection).get_table_names())
    if FOREIGN not in tables:
        return
    owner = next((name for table, name in OWNERS.items() if table in tables), "another program")
    raise BadInput(
        f"store {shown(connection.engine.url)} already belongs to {owner} (it holds a table '{FOREIGN}'); "
        "give AutoPrune a place of its own: another file (sqlite:///…/autoprune.db), "
        "or in PostgreSQL another database or schema (append ?options=-csearch_path%3Dautoprune)"
    )
