"""The client for threads on the running service, on each store."""

from collections.abc import Iterator

import pytest

from retriever_client import Retriever
from tests.support.client_contract_sync import *  # noqa: F403 - its tests are ours
from tests.support.system import System


@pytest.fixture
def site(system: System) -> str:
    return system.site_url


@pytest.fixture
def retriever(system: System) -> Iterator[Retriever]:
    key = system.headers.get("Authorization", "").removeprefix("Bearer ")
    with Retriever(system.api_url, key=key) as client:
        yield client
