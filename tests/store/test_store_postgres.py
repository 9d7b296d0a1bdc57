"""The same store on PostgreSQL, beside Optuna, a schema each. Set AUTOPRUNE_TEST_POSTGRES_URL to an empty database."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from store_samples import KEY, measurement, new_study, record, request
from test_store_database import drift

from autoprune.errors import AutoPruneError, BadInput
from autoprune.store import open_store
from autoprune.store.engine import in_schema
from autoprune.store.store import Store

SCHEMAS = ("autoprune_test", "optuna_test")


@pytest.fixture
def urls(require: Callable[[str, bool, str], None]) -> Iterator[list[str]]:
    """One URL for each of two fresh schemas."""
    given = os.environ.get("AUTOPRUNE_TEST_POSTGRES_URL", "")
    require("postgres", bool(given), "AUTOPRUNE_TEST_POSTGRES_URL is not set")
    engine = create_engine(given)
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
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
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
        optuna.storages.RDBStorage(in_schema(urls[0], SCHEMAS[1]))
    with pytest.raises(AutoPruneError, match="making the schema 'x' failed: the server does not answer"):
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
