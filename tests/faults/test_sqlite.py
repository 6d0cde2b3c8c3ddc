"""The faults of the embedded store, on one broker: nothing is lost, recorded twice, or stuck."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from deploy.local.broker import Broker
from tests.faults.catalogue import SQLITE
from tests.faults.conftest import MARKS
from tests.faults.fault import Fault
from tests.faults.trial import suffer
from tests.faults.world import World, open_world

pytestmark = MARKS


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world_on_sqlite(fault_broker: Broker) -> AsyncIterator[World]:
    """Yield a running system on SQLite."""
    async with open_world(fault_broker, postgres=None) as running:
        yield running


@pytest.mark.parametrize("fault", SQLITE, ids=[fault.name for fault in SQLITE])
async def test_the_promise_is_kept_on_sqlite(
    world_on_sqlite: World, fault: Fault, broker_version: str, seed: int
) -> None:
    verdict = await suffer(world_on_sqlite, fault, broker=broker_version, seed=seed)

    verdict.save()
    assert verdict.is_kept, verdict.report()
