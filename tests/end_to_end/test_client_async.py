"""The client for coroutines on the running service, on each store."""

from collections.abc import AsyncIterator

import pytest

from retriever_client import AsyncRetriever
from tests.support.client_contract_async import *  # noqa: F403 - its tests are ours
from tests.support.system import System


@pytest.fixture
def site(system: System) -> str:
    return system.site_url


@pytest.fixture
async def retriever(system: System) -> AsyncIterator[AsyncRetriever]:
    key = system.headers.get("Authorization", "").removeprefix("Bearer ")
    async with AsyncRetriever(system.api_url, key=key) as client:
        yield client
