"""Every fault once, on one broker and PostgreSQL: nothing is lost, recorded twice, or stuck."""

import pytest

from tests.faults.catalogue import SINGLE_NODE
from tests.faults.conftest import MARKS
from tests.faults.fault import Fault
from tests.faults.trial import suffer
from tests.faults.world import World

pytestmark = MARKS


@pytest.mark.parametrize("fault", SINGLE_NODE, ids=[fault.name for fault in SINGLE_NODE])
async def test_the_promise_is_kept(world: World, fault: Fault, broker_version: str, seed: int) -> None:
    verdict = await suffer(world, fault, broker=broker_version, seed=seed)

    verdict.save()
    assert verdict.is_kept, verdict.report()
