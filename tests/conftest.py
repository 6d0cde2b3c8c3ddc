"""Fixtures for the whole suite: a broker and PostgreSQL a process, a virtual host and database a test."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import psycopg
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from deploy.local.broker import Broker, open_broker
from deploy.local.ports import free_ports
from deploy.local.postgres import Postgres, open_postgres
from producer.store.migrate import migrate
from tests.support.management import Management
from tests.support.stores import STORES
from tests.support.tables import empty_tables
from tests.support.virtual_hosts import VirtualHosts

# Tests that other modules take.
pytest.register_assert_rewrite("tests.support.client_contract_async", "tests.support.client_contract_sync")

# An example takes as long as the other processes let it; tests that measure time say so themselves.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

END_TO_END = "tests/end_to_end/"
FAULTS = "tests/faults/"
UNIT = "tests/unit/"
# The fixture of tests that may stop the broker.
_RESTARTS_BROKER = "own_broker"


class _TogetherScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives tests that share running services to one process, unit tests one by one, and others by file.

    End-to-end tests share the services on one store, and faults those on one broker and store.
    """

    def _split_scope(self, nodeid: str) -> str:
        path, _, name = nodeid.partition("::")
        parameters = name.partition("[")[2].rstrip("]").split("-")
        if path.startswith(FAULTS):
            return f"{path} on {parameters[0]}"
        if path.startswith(END_TO_END):
            return next((f"{END_TO_END} on {store}" for store in STORES if store in parameters), path)
        return nodeid if path.startswith(UNIT) else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Return what shares the tests out among several processes (`make test`)."""
    return _TogetherScheduling(config, log)


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """Yield the run's broker; `TEST_BROKER=docker` takes one in Docker. A missing broker is an error."""
    with open_broker(prefer=os.environ.get("TEST_BROKER") or None) as running:
        yield running


@pytest.fixture(scope="session")
def own_broker(broker: Broker) -> Iterator[Broker]:
    """Yield a broker to stop, kill and start again: the run's own, or a private one beside a given one."""
    if broker.is_ours:
        yield broker
        return
    with open_broker(environment={}) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Yield the run's PostgreSQL. A missing one is an error."""
    with open_postgres() as running:
        yield running


@pytest.fixture(scope="session")
def management(broker: Broker) -> Iterator[Management]:
    """Yield a client of the broker's management API."""
    if broker.management_url is None:
        raise pytest.UsageError("RETRIEVER_AMQP_URL is set: set RETRIEVER_MANAGEMENT_URL too.")
    client = Management(broker.management_url)
    yield client
    client.close()


@pytest.fixture
def unused_port() -> int:
    """Return a TCP port on which nobody listens."""
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def virtual_hosts(broker: Broker, management: Management) -> Iterator[VirtualHosts]:
    """Yield the virtual hosts of the run."""
    hosts = VirtualHosts(broker.amqp_url, management)
    yield hosts
    hosts.close()


@pytest.fixture
def vhost(virtual_hosts: VirtualHosts, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the name of a virtual host that only this test has; nothing waits there, but queues may exist.

    Emptying one takes a fifth of the time that declaring and deleting all queues takes. A test that changed
    more than messages leaves one that is deleted.
    """
    name = virtual_hosts.take()
    yield name
    if _RESTARTS_BROKER in request.fixturenames:
        # Dead letters that a restart held back come seconds later.
        virtual_hosts.delete(name)
    else:
        virtual_hosts.give_back(name)


@pytest.fixture
def new_vhost(virtual_hosts: VirtualHosts) -> Iterator[str]:
    """Yield the name of a virtual host that only this test has, and in which no queue was ever declared."""
    name = virtual_hosts.make()
    yield name
    virtual_hosts.delete(name)


@pytest.fixture
def vhost_url(virtual_hosts: VirtualHosts, vhost: str) -> str:
    """Return the AMQP address of a virtual host that only this test has; queues may exist."""
    return virtual_hosts.url(vhost)


@pytest.fixture
def new_vhost_url(virtual_hosts: VirtualHosts, new_vhost: str) -> str:
    """Return the AMQP address of a virtual host in which no queue was ever declared."""
    return virtual_hosts.url(new_vhost)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the address of a fresh database with its tables, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        path = tmp_path / "retriever.db"
        shutil.copyfile(request.getfixturevalue("migrated_file"), path)
        yield f"sqlite:///{path}"
        return
    yield request.getfixturevalue("postgres_url")


@pytest.fixture(scope="session")
def emptied_databases() -> list[str]:
    """Return the addresses of PostgreSQL databases that an earlier test left as `postgres_url` found them."""
    return []


@pytest.fixture
def postgres_url(postgres: Postgres, migrated_postgres: str, emptied_databases: list[str]) -> Iterator[str]:
    """Yield the address of a PostgreSQL database with empty tables.

    Emptying one takes a tenth of the time that making one takes. A test that changed the tables themselves
    leaves a database that is dropped.
    """
    url = emptied_databases.pop() if emptied_databases else _make_database(postgres, migrated_postgres)
    yield url
    if empty_tables(url, like=f"{_server(postgres)}/{migrated_postgres}"):
        emptied_databases.append(url)
    else:
        _drop_database(postgres, url)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the address of a fresh database without tables, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'retriever.db'}"
        return
    with new_postgres_database(request.getfixturevalue("postgres")) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite file with the tables and nothing else, to be copied: migrating takes far longer."""
    path = tmp_path_factory.mktemp("migrated") / "retriever.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Postgres) -> Iterator[str]:
    """Yield the name of a PostgreSQL database with the tables and nothing else, a template for others."""
    with new_postgres_database(postgres, prefix="migrated") as url:
        migrate(url)
        yield url.rsplit("/", maxsplit=1)[1]


@contextmanager
def new_postgres_database(
    postgres: Postgres, *, prefix: str = "test", template: str = "template1"
) -> Iterator[str]:
    """Yield the address of a fresh database of a server, as the template is, and drop it afterwards."""
    url = _make_database(postgres, template, prefix=prefix)
    yield url
    _drop_database(postgres, url)


def _make_database(postgres: Postgres, template: str, *, prefix: str = "test") -> str:
    name = f"{prefix}_{uuid.uuid4().hex[:12]}"
    _administer(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    return f"{_server(postgres)}/{name}"


def _drop_database(postgres: Postgres, url: str) -> None:
    _administer(postgres, f"DROP DATABASE IF EXISTS {url.rsplit('/', maxsplit=1)[1]} WITH (FORCE)")


def _server(postgres: Postgres) -> str:
    return postgres.url.rsplit("/", maxsplit=1)[0]


def _administer(postgres: Postgres, statement: str) -> None:
    with psycopg.connect(postgres.url.replace("+psycopg", ""), autocommit=True) as connection:
        # The name is ours and random; identifiers cannot be parameters.
        connection.execute(statement.encode())
