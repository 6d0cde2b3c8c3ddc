"""What the client has for operators, on a running API, on each store."""

from collections.abc import Iterator

import pytest

from retriever_client import Retriever
from tests.support.api import RunningApi
from tests.support.client_contract import fresh
from tests.support.client_operators_sync import *  # noqa: F403 - its tests are ours
from tests.support.keys import make_key


@pytest.fixture
def retriever(module_api: RunningApi) -> Iterator[Retriever]:
    # From the first key on nobody is let in without one.
    key = make_key(module_api.store, f"operator-{fresh()}")
    with Retriever(f"http://127.0.0.1:{module_api.port}", key=key) as client:
        yield client
