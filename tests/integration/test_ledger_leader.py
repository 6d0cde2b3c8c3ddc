"""Leader election on both stores, and which connections a ledger that leads, or does not, keeps open."""

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from producer.ledger.leader import Elector, Lease
from producer.ledger.metrics import LedgerMetrics
from producer.ledger.service import run_ledger
from producer.store.database import Database, Store
from shared.settings import Settings
from tests.support.management import Management
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
LEASE_SECONDS, PERIOD_SECONDS, MARGIN_SECONDS = 2.0, 0.2, 0.5

# A ledger that does nothing but lead, and says so.
LEADER = f"""
import asyncio, sys
from producer.ledger.leader import Elector, Lease
from producer.ledger.metrics import LedgerMetrics
from producer.store.database import Database, Store

async def serve():
    print("leads", flush=True)
    await asyncio.get_running_loop().create_future()

lease = Lease(Store(Database.open(sys.argv[1])), "leader", seconds={LEASE_SECONDS})
asyncio.run(Elector(lease, [serve], metrics=LedgerMetrics(), lease_seconds={LEASE_SECONDS},
    period_seconds={PERIOD_SECONDS}, margin_seconds={MARGIN_SECONDS}).run())
"""


class Ledger:
    """An elector with one service, which says whether it runs."""

    def __init__(self, store: Database) -> None:
        self.leads = False
        self._elector = Elector(
            Lease(Store(store), "leader", seconds=LEASE_SECONDS),
            [self._serve],
            metrics=LedgerMetrics(),
            lease_seconds=LEASE_SECONDS,
            period_seconds=PERIOD_SECONDS,
            margin_seconds=MARGIN_SECONDS,
        )
        self._task = asyncio.create_task(self._elector.run())

    async def is_leading(self) -> bool:
        return self.leads

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _serve(self) -> None:
        self.leads = True
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.leads = False


async def test_a_leader_that_stops_is_followed_at_once(store: Database) -> None:
    first = Ledger(store)
    await eventually(first.is_leading)
    second = Ledger(store)
    await asyncio.sleep(1.5 * LEASE_SECONDS)
    before = (first.leads, second.leads)

    started = time.monotonic()
    await first.stop()
    await eventually(second.is_leading)
    seconds = time.monotonic() - started
    await second.stop()

    assert before == (True, False)
    assert seconds < LEASE_SECONDS


async def test_a_leader_that_is_killed_is_followed_when_its_lease_ends(
    store: Database, database_url: str
) -> None:
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LEADER, database_url, cwd=ROOT, stdout=subprocess.PIPE
    )
    assert killed.stdout is not None and await killed.stdout.readline() == b"leads\n"
    follower = Ledger(store)
    await asyncio.sleep(1.5 * LEASE_SECONDS)
    led_before = follower.leads

    killed.kill()
    await killed.wait()
    started = time.monotonic()
    await eventually(follower.is_leading)
    seconds = time.monotonic() - started
    await follower.stop()

    assert not led_before
    # Its last renewal was up to a period before; a busy machine may take a second to notice.
    assert LEASE_SECONDS - 2 * PERIOD_SECONDS - 0.5 < seconds < LEASE_SECONDS + PERIOD_SECONDS + 1.0


@asynccontextmanager
async def running_ledger(settings: Settings, store: Database) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(run_ledger(settings, store, stop))
        yield
        stop.set()


# What it publishes and records, and how much waits in the queues.
_CONNECTIONS = ("publish", "publish interactive", "outcomes", "recorder", "interactive recorder", "window")


# Connections to the broker are the same on every store.
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_leader_has_one_connection_more_than_a_ledger_that_only_relays_and_records(
    store: Database, database_url: str, vhost_url: str, vhost: str, management: Management
) -> None:
    settings = Settings(amqp_url=vhost_url, database_url=database_url, health_port=0)
    each = Counter({f"retriever ledger {name}": 1 for name in _CONNECTIONS})
    leader = each + Counter({"retriever ledger watch": 1})

    async def connected(expected: Counter[str]) -> None:
        async def look() -> bool:
            return management.connection_names(vhost) == expected

        await eventually(look, deadline_seconds=30)

    async with running_ledger(settings, store):
        await connected(leader)
        async with running_ledger(settings, store):
            await connected(leader + each)
