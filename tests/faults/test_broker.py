"""Every fault of one broker once, with PostgreSQL: nothing is lost, recorded twice, or stuck."""

import pytest

from tests.faults.catalogue import BROKER
from tests.faults.conftest import MARKS
from tests.faults.fault import Fault
from tests.faults.trial import suffer
from tests.faults.world import World

pytestmark = MARKS


@pytest.mark.parametrize("fault", BROKER, ids=[fault.name for fault in BROKER])
async def test_the_promise_is_kept_when_the_broker_is_hurt(
    world: World, fault: Fault, broker_version: str, seed: int
) -> None:
    verdict = await suffer(world, fault, broker=broker_version, seed=seed)

    verdict.save()
    assert verdict.is_kept, verdict.report()
