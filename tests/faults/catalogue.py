"""All faults, in the order of the table."""

import asyncio
import random
from dataclasses import replace
from typing import Final

from tests.faults.broker_faults import broker_faults
from tests.faults.cluster_faults import cluster_faults
from tests.faults.fault import Fault
from tests.faults.link_faults import link_faults
from tests.faults.loss_faults import faults_at_default_times, loss_faults
from tests.faults.message_faults import message_faults
from tests.faults.process_faults import process_faults
from tests.faults.store_faults import postgres_faults, sqlite_faults
from tests.faults.stranger_faults import stranger_faults
from tests.faults.world import World


async def _nothing(world: World, _rng: random.Random) -> None:
    world.timeline.note("nothing happens")
    await asyncio.sleep(0)


CALM: Final = Fault(
    "none; two of every process at work", "nothing", "Each job is done once.", _nothing, False
)
BROKER: Final = tuple(broker_faults())
SINGLE_NODE: Final = (
    CALM,
    *process_faults(),
    *BROKER,
    *link_faults(),
    *postgres_faults(),
    *loss_faults(),
    *stranger_faults(),
    *message_faults(),
)
AT_DEFAULT_TIMES: Final = tuple(faults_at_default_times())
CLUSTER: Final = tuple(cluster_faults())
SQLITE: Final = (replace(CALM, name="none; two of every process at work, on SQLite"), *sqlite_faults())
ALL_FAULTS: Final = (*SINGLE_NODE, *AT_DEFAULT_TIMES, *SQLITE, *CLUSTER)
