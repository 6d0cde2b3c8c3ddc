"""Fixtures for tests of one adapter against the real broker or database."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest
from pydantic import SecretStr

from deploy.local.postgres import Postgres
from producer.store.database import Database
from producer.store.schema import metadata
from shared.broker.fast.patches import patch_libraries
from shared.encryption import new_key
from shared.settings import Settings
from tests.conftest import new_postgres_database
from tests.support.api import RunningApi, running_api


@pytest.fixture(scope="session", autouse=True)
def _patched() -> None:
    """Patch the AMQP libraries, as every process of ours does at its start."""
    patch_libraries(plain=Settings().amqp_plain)


@pytest.fixture
def store(database_url: str) -> Iterator[Database]:
    """Yield a store on a fresh database with its tables, on SQLite and on PostgreSQL."""
    opened = Database.open(database_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def sqlite_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Yield one API on SQLite for all tests that need none of their own: starting one takes a second."""
    with _running_api(f"sqlite:///{tmp_path_factory.mktemp('api') / 'retriever.db'}") as api:
        yield api


@pytest.fixture(scope="session")
def postgresql_api(postgres: Postgres) -> Iterator[RunningApi]:
    """Yield one API on PostgreSQL for all tests that need none of their own."""
    with new_postgres_database(postgres, prefix="api") as url, _running_api(url) as api:
        yield api


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def module_api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningApi]:
    """Yield an API with a store of its own for the tests of one file, on SQLite and on PostgreSQL."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            database_url = f"sqlite:///{tmp_path_factory.mktemp('api') / 'retriever.db'}"
        else:
            database_url = stack.enter_context(new_postgres_database(request.getfixturevalue("postgres")))
        settings = Settings(database_url=database_url, encryption_keys=(SecretStr(new_key()),))
        yield stack.enter_context(running_api(settings))


@pytest.fixture(params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest) -> RunningApi:
    """Return a running API with nothing stored, on SQLite and on PostgreSQL."""
    # Two fixtures and not one with parameters: that would be torn down whenever the parameter changes.
    running: RunningApi = request.getfixturevalue(f"{request.param}_api")
    with running.store.writing() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    return running


def _running_api(database_url: str) -> AbstractContextManager[RunningApi]:
    return running_api(Settings(database_url=database_url, api_body_idle_seconds=5.0, retention_days=7))
