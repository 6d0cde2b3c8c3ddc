"""Links between the processes and their servers: cut, slow, open at one end."""

import asyncio
import random

from tests.faults.fault import Fault
from tests.faults.proxy import Proxy
from tests.faults.world import SILENCE_SECONDS, World


def _broker_link(world: World, rng: random.Random) -> Proxy:
    return rng.choice([world.worker_link, world.ledger_link])


def _name(world: World, link: Proxy) -> str:
    names = {id(world.worker_link): "workers' link", id(world.ledger_link): "ledgers' link"}
    return names.get(id(link), "link to the store")


async def cut(world: World, rng: random.Random) -> None:
    """Reset both links to the broker, one after the other, and refuse new connections for a while."""
    for link in rng.sample([world.worker_link, world.ledger_link], 2):
        world.timeline.note(f"cut {_name(world, link)}")
        link.cut()
        await asyncio.sleep(rng.uniform(1.0, 2.0))
        link.mend()
    await world.wait_ready()


async def slow(world: World, _rng: random.Random) -> None:
    """Hold every chunk between processes and broker back for 0.2 s, each way."""
    world.timeline.note("slow links to the broker")
    for link in (world.worker_link, world.ledger_link):
        link.slow(0.2)
    await asyncio.sleep(6.0)
    for link in (world.worker_link, world.ledger_link):
        link.mend()
    await world.wait_ready()


async def half_open(world: World, rng: random.Random) -> None:
    """Let a link to the broker go silent without a word, for longer than any heartbeat."""
    link = _broker_link(world, rng)
    world.timeline.note(f"half-open {_name(world, link)}")
    link.half_open()
    await asyncio.sleep(SILENCE_SECONDS)
    link.mend()
    await world.wait_ready()


async def cut_store(world: World, _rng: random.Random) -> None:
    """Reset the link to the store and refuse new connections for a while."""
    if world.store_link is not None:
        world.timeline.note("cut link to the store")
        world.store_link.cut()
        await asyncio.sleep(3.0)
        world.store_link.mend()
    await world.wait_ready()


async def slow_store(world: World, _rng: random.Random) -> None:
    """Hold every chunk between processes and store back for 0.1 s, each way."""
    if world.store_link is not None:
        world.timeline.note("slow link to the store")
        world.store_link.slow(0.1)
        await asyncio.sleep(6.0)
        world.store_link.mend()
    await world.wait_ready()


def link_faults() -> list[Fault]:
    """Return the faults of links."""
    return [
        Fault(
            "links to the broker cut",
            "broker link",
            "Connections come back; deliveries in hand come again, and a worker that still runs them waits.",
            cut,
            True,
            traces=("broker_connection_lost",),
        ),
        Fault("links to the broker slow (0.2 s each way)", "broker link", "It takes longer.", slow, False),
        Fault(
            "link to the broker half-open",
            "broker link",
            "Heartbeats find the silent peer, on both sides.",
            half_open,
            True,
            spread_seconds=6.0,
            traces=("broker_connection_lost",),
        ),
        Fault(
            "link to the store cut",
            "store",
            "The API answers 503 with Retry-After; relay and recorder wait for the store.",
            cut_store,
            True,
            traces=("store_unavailable",),
        ),
        Fault("link to the store slow (0.1 s each way)", "store", "It takes longer.", slow_store, False),
    ]
