"""What the database will never take is told apart from a database that is away."""

import traceback
from collections.abc import Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from producer.store import submissions
from producer.store.database import Database
from producer.store.engine import open_engine, writing
from producer.store.failures import store_failures
from producer.store.migrate import migrate
from producer.store.schema import batches
from shared.errors import StoreRefused, StoreUnavailable
from tests.support.factories import make_batch, make_job


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    migrate(database_url)
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


def test_a_row_that_breaks_a_constraint_is_refused(engine: sa.Engine) -> None:
    batch = make_batch()
    row: dict[str, object] = {
        "id": batch.id,
        "kind": None,
        "total": 1,
        "labels": {},
        "created_at": batch.created_at,
    }

    with pytest.raises(StoreRefused), store_failures(), writing(engine).begin() as connection:
        connection.execute(batches.insert().values(row))


def test_a_value_that_cannot_be_bound_is_refused(engine: sa.Engine) -> None:
    with pytest.raises(StoreRefused), store_failures(), writing(engine).begin() as connection:
        connection.execute(batches.update().values(total=2**70))


def test_a_missing_table_may_be_there_later(engine: sa.Engine) -> None:
    with pytest.raises(StoreUnavailable), store_failures(), engine.connect() as connection:
        connection.execute(sa.text("SELECT 1 FROM no_such_table"))


def test_a_batch_that_is_stored_already_is_refused(store: Database) -> None:
    batch = make_batch()
    store.write(submissions.insert_batch, batch, [])

    with pytest.raises(StoreRefused):
        store.write(submissions.insert_batch, batch, [])


def test_a_refusal_can_be_logged_with_its_traceback_and_shows_no_parameters(store: Database) -> None:
    # PostgreSQL itself shows the first 64 bytes of each column.
    secret = make_job(args={"url": "https://a.example/" + "x" * 64 + "?token=hunter2"})
    broken = replace(secret, kind=None)  # type: ignore[arg-type]

    with pytest.raises(StoreRefused) as raised:
        store.write(submissions.insert_jobs, [broken])

    logged = "".join(traceback.format_exception(raised.value))
    assert "INSERT INTO jobs" in logged
    assert "hunter2" not in logged


def test_a_statement_that_took_too_long_may_be_quicker_later(postgres_url: str) -> None:
    engine = open_engine(f"{postgres_url}?options=-c%20statement_timeout%3D50")

    with pytest.raises(StoreUnavailable), store_failures(), engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_sleep(60)"))

    engine.dispose()


def test_a_lock_that_is_held_may_be_free_later(postgres_url: str) -> None:
    migrate(postgres_url)
    engine = open_engine(f"{postgres_url}?options=-c%20lock_timeout%3D50")
    lock = sa.text("LOCK TABLE batches IN EXCLUSIVE MODE")

    with engine.begin() as holder:
        holder.execute(lock)
        with pytest.raises(StoreUnavailable), store_failures(), engine.begin() as waiting:
            waiting.execute(lock)

    engine.dispose()
