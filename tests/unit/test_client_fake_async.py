"""The service in memory, for coroutines: it passes what a running one passes."""

from collections.abc import AsyncIterator

import pytest

from retriever_client import AsyncRetriever
from retriever_client.testing import AsyncFakeRetriever
from tests.support.client_contract_async import *  # noqa: F403 - its tests are ours
from tests.support.client_fake import SITE, fake_service
from tests.support.client_operators_async import *  # noqa: F403


@pytest.fixture
def site() -> str:
    return SITE


@pytest.fixture
async def retriever() -> AsyncIterator[AsyncRetriever]:
    async with AsyncFakeRetriever(fake_service()) as client:
        yield client
