"""Faults at random, two at a time, under a steady load; then quiet, and the counters."""

import os

from tests.faults.conftest import MARKS
from tests.faults.soak import soak
from tests.faults.world import World

pytestmark = MARKS


async def test_the_promise_is_kept_for_a_long_time(world: World, broker_version: str, seed: int) -> None:
    verdict = await soak(world, broker=broker_version, seed=seed, minutes=float(os.environ["SOAK_MINUTES"]))

    verdict.save()
    assert verdict.is_kept, verdict.report()
