"""Migrations, other people's databases, and databases that refuse."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.command import downgrade
from alembic.migration import MigrationContext
from sqlalchemy import event, inspect, text
from store_samples import KEY, measurement, new_study, record, request

from autoprune.errors import AutoPruneError, BadInput
from autoprune.store import migrate, open_store
from autoprune.store.engine import writing
from autoprune.store.store import Store
from autoprune.store.tables import VERSION_TABLE, Base


def drift(store: Store) -> list[object]:
    """How the migrated database differs from the tables the code expects."""
    with store.engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata))


def test_migrating_gives_exactly_the_tables_of_the_code(store: Store) -> None:
    assert drift(store) == []
    assert all(name.startswith("autoprune_") for name in inspect(store.engine).get_table_names())


def test_the_drift_test_can_see_drift(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE autoprune_trials DROP COLUMN reason"))
        connection.execute(text("DROP INDEX ix_autoprune_trials_digest"))
    assert len(drift(store)) == 2


def test_downgrading_leaves_nothing_but_the_version_table(store: Store) -> None:
    with writing(store.engine).begin() as connection:
        downgrade(migrate.configuration(connection), "base")
    assert inspect(store.engine).get_table_names() == [VERSION_TABLE]


def test_a_failed_migration_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text((migrate.migrations() / "env.py").read_text())
    (first,) = (migrate.migrations() / "versions").glob("0001*.py")
    broken = first.read_text().replace("    op.create_index(", "    raise ZeroDivisionError\n    op.create_index(", 1)
    (folder / "versions" / first.name).write_text(broken)
    monkeypatch.setattr(migrate, "migrations", lambda: folder)
    with pytest.raises(ZeroDivisionError):
        open_store(url)
    monkeypatch.undo()
    with sqlite3.connect(url.removeprefix("sqlite:///")) as plain:
        assert plain.execute("SELECT name FROM sqlite_master").fetchall() == []
    with open_store(url) as store:
        assert drift(store) == []


def test_several_may_open_a_new_store_at_once(url: str) -> None:
    troubles: list[BaseException] = []

    def open_one() -> None:
        try:
            open_store(url).close()
        except BaseException as error:
            troubles.append(error)
            raise

    code = f"from autoprune.store import open_store; open_store({url!r})"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    thread = threading.Thread(target=open_one)
    thread.start()
    thread.join()
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert troubles == []
    with open_store(url) as store:
        assert drift(store) == []


def test_sqlite_is_tuned(store: Store) -> None:
    with store.engine.connect() as connection:
        asked = {name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "foreign_keys")}
        assert asked == {"journal_mode": "wal", "foreign_keys": 1}
        assert int(connection.scalar(text("PRAGMA busy_timeout")) or 0) >= 10_000


@pytest.mark.parametrize(
    ("table", "owner"), [("registered_models", "MLflow"), ("study_directions", "Optuna"), ("x", "another")]
)
def test_a_database_of_somebody_else_is_refused_untouched(tmp_path: Path, table: str, owner: str) -> None:
    file = tmp_path / "theirs.db"
    with sqlite3.connect(file) as theirs:
        theirs.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        theirs.execute(f"CREATE TABLE {table} (id INTEGER)")
    with pytest.raises(BadInput, match=f"already belongs to {owner}.*another file"):
        open_store(f"sqlite:///{file}")
    with sqlite3.connect(file) as theirs:
        names = {name for (name,) in theirs.execute("SELECT name FROM sqlite_master")}
    assert names == {"alembic_version", table}


def test_a_real_optuna_file_is_refused(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    url = f"sqlite:///{tmp_path}/optuna.db"
    optuna.storages.RDBStorage(url)
    with pytest.raises(BadInput, match="already belongs to Optuna"):
        open_store(url)


def test_a_store_of_a_newer_version_is_refused(store: Store, url: str) -> None:
    with store.engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(AutoPruneError, match="written by a newer AutoPrune"):
        open_store(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("autoprune.db", "not named by a database URL"),
        ("oracle+nothing://x", "not named by a database URL"),
        ("mysql://u:secret@h/d", "'mysql' is not supported|not named by a database URL"),
        ("sqlite://", "lives in memory"),
        ("sqlite:///:memory:", "lives in memory"),
    ],
)
def test_urls_that_cannot_be_a_store(url: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_bad_input(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("these are notes, and many of them. " * 100)
    with pytest.raises(BadInput, match=r"notes\.db: opening the store failed: the file is not a SQLite database"):
        open_store(f"sqlite:///{file}")


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AutoPruneError, match=r"the folder .* cannot be made"):
        open_store(f"sqlite:///{tmp_path}/file/deeper/autoprune.db")


def test_a_read_only_database_can_be_read_and_says_why_it_is_not_written(store: Store, url: str) -> None:
    new_study(store).settle(record(0))
    file = url.removeprefix("sqlite:///")
    with open_store(f"sqlite:///file:{file}?mode=ro&uri=true") as looking:
        log = looking.study("llava-0001")
        assert log.trials() == [record(0)]
        with pytest.raises(AutoPruneError, match="settling trial 1 failed: the database is read-only"):
            log.settle(record(1))
        with pytest.raises(AutoPruneError, match="lease failed: the database is read-only"), log.lease("me"):
            pytest.fail("held what cannot be written")


def test_a_read_only_database_without_tables_is_said(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "empty.db") as plain:
        plain.execute("CREATE TABLE notes (id INTEGER)")
    with pytest.raises(AutoPruneError, match="opening the store failed: the database is read-only"):
        open_store(f"sqlite:///file:{tmp_path}/empty.db?mode=ro&uri=true")


def test_a_full_disk_is_said_and_nothing_is_half_written(store: Store) -> None:
    log = new_study(store)
    store.close()

    @event.listens_for(store.engine, "connect")
    def small(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the file's present size then

    big = record(0, params={"text": "x" * 200_000})
    with pytest.raises(AutoPruneError, match=r"settling trial 0 failed: the disk .* is full"):
        log.settle(big)
    assert log.trials() == []
    assert [row.kind for row in log.outbox()] == ["study"]
    with pytest.raises(AutoPruneError, match="full"):
        log.remember(KEY, request(tag="x" * 200_000), measurement())
    assert log.find(KEY) is None


def test_a_locked_database_is_said(store: Store, url: str) -> None:
    log = new_study(store)
    store.close()

    @event.listens_for(store.engine, "connect")
    def impatient(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA busy_timeout = 50")

    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(AutoPruneError, match="another process holds it"):
            log.settle(record(0))
        assert log.trials() == []  # readers are not blocked
    finally:
        other.close()
    log.settle(record(0))


def test_importing_the_store_brings_no_sqlalchemy() -> None:
    code = "import sys, autoprune.store; print(sorted({'sqlalchemy', 'alembic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
