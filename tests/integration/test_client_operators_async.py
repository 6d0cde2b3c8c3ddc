"""What the client has for operators, on a running API, on each store."""

from collections.abc import AsyncIterator

import pytest

from retriever_client import AsyncRetriever
from tests.support.api import RunningApi
from tests.support.client_contract import fresh
from tests.support.client_operators_async import *  # noqa: F403 - its tests are ours
from tests.support.keys import make_key


@pytest.fixture
async def retriever(module_api: RunningApi) -> AsyncIterator[AsyncRetriever]:
    # From the first key on nobody is let in without one.
    key = make_key(module_api.store, f"operator-{fresh()}")
    async with AsyncRetriever(f"http://127.0.0.1:{module_api.port}", key=key) as client:
        yield client
