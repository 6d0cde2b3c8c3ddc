"""How coroutines call the store: in a thread each, and again while the database is away."""

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from producer.store.database import Database, RetryingStore, Store
from shared.errors import StoreRefused, StoreUnavailable


@pytest.fixture
def database() -> Iterator[Database]:
    """Yield a database in memory, without tables."""
    opened = Database(sa.create_engine("sqlite://"))
    yield opened
    opened.close()


def away(times: int) -> list[Exception]:
    return [StoreUnavailable("away") for _ in range(times)]


def answer(_connection: sa.Connection, failures: list[Exception]) -> str:
    """Raise one failure after another, then return the name of the thread."""
    if failures:
        raise failures.pop(0)
    return threading.current_thread().name


async def test_a_call_runs_in_a_thread_of_the_pool(database: Database) -> None:
    store = Store(database)

    thread = await store.read(answer, [])

    store.close()
    assert thread.startswith("store")


async def test_a_store_that_is_away_is_an_error(database: Database) -> None:
    store = Store(database)

    with pytest.raises(StoreUnavailable):
        await store.write(answer, away(1))

    store.close()


async def test_a_retrying_store_calls_again_until_the_database_is_back(database: Database) -> None:
    store, failures = RetryingStore(database), away(2)

    thread = await store.write(answer, failures)

    store.close()
    assert (thread.startswith("store"), failures) == (True, [])


async def test_a_retrying_store_does_not_repeat_what_the_database_refused(database: Database) -> None:
    store, failures = RetryingStore(database), [StoreRefused("too large"), *away(1)]

    with pytest.raises(StoreRefused):
        await store.write(answer, failures)

    store.close()
    assert len(failures) == 1


async def test_work_of_several_transactions_gets_the_database(database: Database) -> None:
    store = Store(database)

    def twice(given: Database) -> list[str]:
        return [given.read(answer, []), given.write(answer, [])]

    threads = await store.run(twice)

    store.close()
    assert len(threads) == 2
