"""Alembic's entry. The store passes an open connection; by hand: `alembic -c db/alembic.ini -x url=… <command>`."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from autoprune.store.tables import VERSION_TABLE, Base


def ours(name: str | None, kind: str, _parents: object) -> bool:
    """Look at our own tables only: others may live in the same schema."""
    return kind != "table" or (name or "").startswith("autoprune_")


def run(connection: Connection) -> None:
    """Migrate inside the connection's transaction where one is open, else in one of its own."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        include_name=ours,
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is not None:
        run(connection)
        return
    from autoprune.store.engine import open_engine, writing

    with writing(open_engine(context.get_x_argument(as_dictionary=True)["url"])).begin() as own:
        run(own)


main()
