"""One running service for all end-to-end tests: processes here, or the compose stack of `make e2e`."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import httpx
import pytest

from deploy.local.broker import Broker
from tests.conftest import new_postgres_database
from tests.support.client import Client
from tests.support.compose import ComposeSystem
from tests.support.stores import IS_COMPOSE, STORES
from tests.support.system import LocalSystem, System, running_system

# They need a server on the loopback of the workers, which those in containers have to themselves, or
# processes of two versions or of our own; `make test` runs them. The last one is about containers.
_OF_AGENTS = ["test_agent_programs.py", "test_agents.py"]
_LOCAL_ONLY = [*_OF_AGENTS, "test_guard.py", "test_paged_fetch.py", "test_upgrade.py"]
collect_ignore = _LOCAL_ONLY if IS_COMPOSE else ["test_compose.py"]
# There agents have an API of their own, which the network of agents alone reaches.
_TASKS_OF_CLIENTS = ("test_client_", "test_a_task_")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `_LOCAL_ONLY` cannot name: two tests of files whose others run in containers, too."""
    file, test = _TASKS_OF_CLIENTS
    left = [each for each in items if each.path.name.startswith(file) and each.name.startswith(test)]
    if IS_COMPOSE and left:
        config.hook.pytest_deselected(items=left)
        items[:] = [each for each in items if each not in left]


@pytest.fixture(scope="session", params=STORES)
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Yield the running service, once on each store."""
    if request.param == "compose":
        yield ComposeSystem()
        return
    folder = tmp_path_factory.mktemp(f"system-{request.param}")
    broker: Broker = request.getfixturevalue("own_broker")
    with ExitStack() as stack:
        database_url = f"sqlite:///{folder / 'retriever.db'}"
        if request.param == "postgresql":
            postgres = request.getfixturevalue("postgres")
            database_url = stack.enter_context(new_postgres_database(postgres, prefix="system"))
        yield stack.enter_context(running_system(LocalSystem, broker, database_url, folder, name="e2e"))


@pytest.fixture
async def client(system: System) -> AsyncIterator[Client]:
    """Yield a client of the running service."""
    async with httpx.AsyncClient(base_url=system.api_url, headers=system.headers, timeout=30.0) as http:
        client = Client(system, http)
        yield client
        client.management.close()
