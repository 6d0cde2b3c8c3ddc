"""The service in memory, for threads: it passes what a running one passes."""

from collections.abc import Iterator

import pytest

from retriever_client import Retriever
from retriever_client.testing import FakeRetriever
from tests.support.client_contract_sync import *  # noqa: F403 - its tests are ours
from tests.support.client_fake import SITE, fake_service
from tests.support.client_operators_sync import *  # noqa: F403


@pytest.fixture
def site() -> str:
    return SITE


@pytest.fixture
def retriever() -> Iterator[Retriever]:
    with FakeRetriever(fake_service()) as client:
        yield client
