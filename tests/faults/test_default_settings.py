"""Faults that must be over in time with every setting at its default: nothing is lost, or stands still."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from deploy.local.broker import Broker
from deploy.local.postgres import Postgres
from tests.faults.catalogue import AT_DEFAULT_TIMES
from tests.faults.conftest import MARKS
from tests.faults.fault import Fault
from tests.faults.trial import suffer
from tests.faults.world import World, open_world

pytestmark = MARKS


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world_at_defaults(fault_broker: Broker, postgres: Postgres) -> AsyncIterator[World]:
    """Yield a running system whose settings are the defaults."""
    async with open_world(fault_broker, postgres=postgres, is_shortened=False) as running:
        yield running


@pytest.mark.parametrize("fault", AT_DEFAULT_TIMES, ids=[fault.name for fault in AT_DEFAULT_TIMES])
async def test_the_promise_is_kept_at_default_settings(
    world_at_defaults: World, fault: Fault, broker_version: str, seed: int
) -> None:
    verdict = await suffer(world_at_defaults, fault, broker=broker_version, seed=seed)

    verdict.save()
    assert verdict.is_kept, verdict.report()
