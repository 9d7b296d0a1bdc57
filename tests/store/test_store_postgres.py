"""The same store on PostgreSQL, beside Optuna, a schema each. Set AUTOPRUNE_TEST_POSTGRES_URL to an empty database."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import make_url
from store_samples import KEY, measurement, new_study, record, request
from test_store_database import drift

from autoprune.errors import AutoPruneError, BadInput
from autoprune.outage import Away
from autoprune.store import open_store
from autoprune.store.engine import in_schema
from autoprune.store.store import Store
from benchmarks.chaos_servers import OPEN, SHUT, Door

SCHEMAS = ("autoprune_test", "optuna_test")


@pytest.fixture
def urls(require: Callable[[str, bool, str], None]) -> Iterator[list[str]]:
    """One URL for each of two fresh schemas."""
    given = os.environ.get("AUTOPRUNE_TEST_POSTGRES_URL", "")
    require("postgres", bool(given), "AUTOPRUNE_TEST_POSTGRES_URL is not set")
    engine = create_engine(given, pool_pre_ping=True)  # tests cut connections
    with engine.begin() as connection:
        for schema in SCHEMAS:
            connection.execute(text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
            connection.execute(text(f"CREATE SCHEMA {schema}"))
    yield [
        make_url(given).update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)
        for schema in SCHEMAS
    ]
    with engine.begin() as connection:
        for schema in SCHEMAS:
            for one in (schema, f"{schema}_optuna"):
                connection.execute(text(f"DROP SCHEMA IF EXISTS {one} CASCADE"))
    engine.dispose()


@pytest.fixture
def store(urls: list[str]) -> Iterator[Store]:
    with open_store(urls[0]) as opened:
        yield opened


def test_round_trips_and_idempotency(store: Store) -> None:
    assert drift(store) == []
    log = new_study(store)
    for _ in range(2):
        log.settle(record(0))
        log.remember(KEY, request(), measurement())
        log.save_front({"members": []})
    assert log.trials() == [record(0)]
    assert log.find(KEY) == measurement()
    assert [row.kind for row in log.outbox()] == ["study", "trial", "front"]
    assert [log.count_holdout_use(), log.count_holdout_use()] == [1, 2]
    with pytest.raises(AutoPruneError, match="not finite"):
        log.settle(record(1, values={"m": float("nan")}))
    assert store.studies()[0].complete == 1


def test_one_driver(store: Store) -> None:
    log = new_study(store)
    with log.lease("first"):
        log.settle(record(0))
        with pytest.raises(AutoPruneError, match="driven by 'first'"), new_study(store).lease("second"):
            pytest.fail("two drivers")
    with log.lease("second"):
        pass


def test_beside_optuna_in_a_schema_each_but_not_in_the_same(urls: list[str]) -> None:
    import optuna

    optuna.storages.RDBStorage(urls[1])
    for _ in range(2):
        open_store(urls[0]).close()
        optuna.storages.RDBStorage(urls[1])
    with pytest.raises(BadInput, match=r"already belongs to Optuna.*search_path"):
        open_store(urls[1])


def test_a_schema_of_its_own_for_the_samplers_memory(urls: list[str]) -> None:
    import optuna

    open_store(urls[0]).close()
    for _ in range(2):
        optuna.storages.RDBStorage(in_schema(urls[0], "optuna"))
    with pytest.raises(AutoPruneError, match="making the schema 'autoprune_test_x' failed: the server does not answer"):
        in_schema(make_url(urls[0]).set(port=1).render_as_string(), "x")


def test_opening_at_once(urls: list[str]) -> None:
    opened: list[Store] = []
    threads = [threading.Thread(target=lambda: opened.append(open_store(urls[0]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    for store in opened:
        store.close()


def test_a_server_that_is_away_and_a_schema_that_is_missing_are_said(urls: list[str]) -> None:
    away = make_url(urls[0]).set(port=1, password="secret")
    with pytest.raises(AutoPruneError, match="opening the store failed: the server does not answer") as caught:
        open_store(away.render_as_string(hide_password=False))
    assert "secret" not in str(caught.value)
    with pytest.raises(AutoPruneError, match="the schema in its search_path does not exist"):
        open_store(urls[0].replace(SCHEMAS[0], "nowhere"))


def test_another_store_in_the_same_database_has_a_samplers_memory_of_its_own(urls: list[str]) -> None:
    first, second = (make_url(in_schema(url, "optuna")).query["options"] for url in urls)
    assert first == f"-csearch_path={SCHEMAS[0]}_optuna"
    assert second == f"-csearch_path={SCHEMAS[1]}_optuna"


@contextmanager
def restarted(url: str, store: Store) -> Iterator[None]:
    """All connections of the store are ended from outside, as a server's restart does."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        own = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        yield
        connection.execute(own)
    engine.dispose()


def test_connections_that_were_cut_between_two_writes_are_made_again(urls: list[str], store: Store) -> None:
    log = new_study(store)
    with restarted(urls[0], store):
        log.settle(record(0))
    log.settle(record(1))
    assert len(log.trials()) == 2


def test_a_transaction_that_is_cut_is_taken_back_and_said_to_be_an_outage(urls: list[str], store: Store) -> None:
    log = new_study(store)
    cut = []

    @event.listens_for(store.engine, "after_cursor_execute")
    def end(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "autoprune_outbox" in statement and not cut:
            cut.append(statement)
            with restarted(urls[0], store):
                pass

    with pytest.raises(Away, match="settling trial 0 failed"):
        log.settle(record(0))
    assert cut
    assert log.trials() == []
    log.settle(record(0))
    assert log.trials() == [record(0)]


def test_a_server_that_was_there_is_waited_for(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A door to the server is shut, and opened again while the store waits."""
    parsed = make_url(urls[0])
    door = Door(int(parsed.port or 5432))
    try:
        with open_store(parsed.set(host="127.0.0.1", port=door.port).render_as_string(hide_password=False)) as through:
            log = new_study(through)
            door.turn(SHUT)
            opener = threading.Timer(1.0, door.turn, [OPEN])
            opener.start()
            log.settle(record(0))
            opener.join()
            assert log.trials() == [record(0)]
            door.turn(SHUT)
            monkeypatch.setattr("autoprune.outage.PATIENCE", 0.0)
            with pytest.raises(Away, match="the server does not answer"):
                log.settle(record(1))
    finally:
        door.close()
