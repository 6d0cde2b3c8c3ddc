"""Fixtures for tests of one adapter against the real broker or database."""

from collections.abc import Iterator

import pytest

from producer.store.migrate import migrate
from producer.store.store import JobStore


@pytest.fixture
def store(database_url: str) -> Iterator[JobStore]:
    """Yield a store on a fresh database with its tables, on SQLite and on PostgreSQL."""
    migrate(database_url)
    opened = JobStore.open(database_url)
    yield opened
    opened.close()
