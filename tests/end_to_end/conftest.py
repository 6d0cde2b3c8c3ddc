"""One running service for all end-to-end tests: processes here, or the compose stack of `make e2e`."""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from deploy.local.broker import Broker
from tests.conftest import new_postgres_database
from tests.support.client import Client
from tests.support.compose import ComposeSystem
from tests.support.management import Management
from tests.support.stores import IS_COMPOSE, STORES
from tests.support.system import LocalSystem, System

# They need a server on the loopback of the workers, which those in containers have to themselves, or
# processes of two versions or of our own; `make test` runs them. The last one is about containers.
_OF_AGENTS = ["test_agent_programs.py", "test_agents.py"]
_LOCAL_ONLY = [*_OF_AGENTS, "test_guard.py", "test_paged_fetch.py", "test_upgrade.py"]
collect_ignore = _LOCAL_ONLY if IS_COMPOSE else ["test_compose.py"]


@pytest.fixture(scope="session", params=STORES)
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Yield the running service, once on each store."""
    if request.param == "compose":
        yield ComposeSystem()
        return
    folder = tmp_path_factory.mktemp(f"system-{request.param}")
    broker: Broker = request.getfixturevalue("own_broker")
    if request.param == "sqlite":
        yield from _local_system(broker, f"sqlite:///{folder / 'retriever.db'}", folder)
    else:
        with new_postgres_database(request.getfixturevalue("postgres"), prefix="system") as database_url:
            yield from _local_system(broker, database_url, folder)


def _local_system(broker: Broker, database_url: str, logs: Path) -> Iterator[System]:
    assert broker.management_url is not None
    management = Management(broker.management_url)
    vhost = f"e2e-{uuid.uuid4().hex[:12]}"
    management.create_vhost(vhost)
    amqp_url = f"{broker.amqp_url.rsplit('/', maxsplit=1)[0]}/{vhost}"
    system = LocalSystem(broker=broker, vhost=vhost, amqp_url=amqp_url, database_url=database_url, logs=logs)
    try:
        system.start()
        yield system
    finally:
        system.stop()
        management.delete_vhost(vhost)
        management.close()


@pytest.fixture
async def client(system: System) -> AsyncIterator[Client]:
    """Yield a client of the running service."""
    async with httpx.AsyncClient(base_url=system.api_url, timeout=30.0) as http:
        client = Client(system, http)
        yield client
        client.management.close()
