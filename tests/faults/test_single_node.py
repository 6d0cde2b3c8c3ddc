"""Every fault around one broker once, with PostgreSQL: nothing is lost, recorded twice, or stuck.

Those of the broker itself are in test_broker.py, so that two processes share them all.
"""

import pytest

from tests.faults.catalogue import BROKER, SINGLE_NODE
from tests.faults.conftest import MARKS
from tests.faults.fault import Fault
from tests.faults.trial import suffer
from tests.faults.world import World

pytestmark = MARKS

FAULTS = [fault for fault in SINGLE_NODE if fault not in BROKER]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
async def test_the_promise_is_kept(world: World, fault: Fault, broker_version: str, seed: int) -> None:
    verdict = await suffer(world, fault, broker=broker_version, seed=seed)

    verdict.save()
    assert verdict.is_kept, verdict.report()
