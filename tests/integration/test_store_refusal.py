"""What the database will never take is told apart from a database that is away."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from producer.store.engine import open_engine, writing
from producer.store.failures import store_failures
from producer.store.migrate import migrate
from producer.store.schema import batches
from shared.errors import StoreRefused, StoreUnavailable
from tests.support.factories import make_batch


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
