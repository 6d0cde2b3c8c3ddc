"""Processes that die, freeze, drain, and meet a job that kills them."""

import asyncio
import random
import signal
from collections.abc import Sequence

from tests.faults.fault import Fault
from tests.faults.services import Service
from tests.faults.world import HEARTBEAT_SECONDS, World

# The broker drops a peer that was silent for two heartbeats, at its next look.
_FREEZE_SECONDS = 4.0 * HEARTBEAT_SECONDS


async def _kill(world: World, services: Sequence[Service], rng: random.Random) -> None:
    """Kill one after the other, a moment apart."""
    for service in services:
        world.timeline.note(f"SIGKILL {service.name}")
        service.kill()
        await asyncio.sleep(rng.uniform(0.1, 1.0))
    await world.wait_ready()


async def _freeze(world: World, service: Service, seconds: float) -> None:
    world.timeline.note(f"SIGSTOP {service.name}, {seconds:g} s")
    service.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        service.thaw()
    await world.wait_ready()


async def kill_workers(world: World, rng: random.Random) -> None:
    """SIGKILL every worker."""
    await _kill(world, world.workers, rng)


async def kill_ledgers(world: World, rng: random.Random) -> None:
    """SIGKILL every ledger."""
    await _kill(world, world.ledgers, rng)


async def kill_apis(world: World, rng: random.Random) -> None:
    """SIGKILL every API."""
    await _kill(world, world.apis, rng)


async def freeze_worker(world: World, rng: random.Random) -> None:
    """SIGSTOP a worker for longer than its heartbeats allow."""
    await _freeze(world, rng.choice(world.workers), _FREEZE_SECONDS)


async def freeze_ledger(world: World, rng: random.Random) -> None:
    """SIGSTOP a ledger for longer than its heartbeats and leases allow."""
    await _freeze(world, rng.choice(world.ledgers), _FREEZE_SECONDS)


async def freeze_api(world: World, rng: random.Random) -> None:
    """SIGSTOP an API for a while."""
    await _freeze(world, rng.choice(world.apis), 3.0)


async def drain_workers(world: World, _rng: random.Random) -> None:
    """SIGTERM every worker, one after the other: a deploy."""
    for worker in world.workers:
        world.timeline.note(f"SIGTERM {worker.name}")
        await worker.terminate()
        await worker.wait_ready()


async def die_before_ack(world: World, _rng: random.Random) -> None:
    """Let the recorders commit and not ack, then SIGKILL them.

    Their acks are held back on the way to the broker while reports still come, so what is killed is a
    recorder between its commit and its ack, for every report of these seconds.
    """
    world.timeline.note("hold back what the ledgers say to the broker")
    world.ledger_link.hold_upward()
    await asyncio.sleep(2.0)
    for ledger in world.ledgers:
        world.timeline.note(f"SIGKILL {ledger.name}")
        ledger.send(signal.SIGKILL)
    world.ledger_link.mend()
    await world.wait_ready()


def process_faults() -> list[Fault]:
    """Return the faults of processes."""
    return [
        Fault("workers killed (SIGKILL)", "worker", "What was in hand is done again.", kill_workers, True),
        Fault(
            "worker frozen (SIGSTOP)",
            "worker",
            "The broker gives its jobs to others; when it goes on, its late reports change nothing.",
            freeze_worker,
            True,
            traces=("broker_connection_lost",),
        ),
        Fault(
            "workers drained in mid-job (SIGTERM)",
            "worker",
            "Jobs in hand end or are given back; no attempt is burnt.",
            drain_workers,
            False,
            traces=("worker_drained",),
        ),
        Fault(
            "ledgers killed (SIGKILL)",
            "ledger",
            "Leases run out, reports are delivered again.",
            kill_ledgers,
            True,
        ),
        Fault(
            "ledger frozen (SIGSTOP)",
            "ledger",
            "Another ledger goes on; what it had leased is published again.",
            freeze_ledger,
            True,
            traces=("broker_connection_lost",),
        ),
        Fault(
            "recorder dies between write and ack",
            "ledger",
            "Every report comes again and changes nothing.",
            die_before_ack,
            True,
        ),
        Fault(
            "APIs killed (SIGKILL)",
            "api",
            "What was answered 202 is stored; who got no answer asks again with the same key.",
            kill_apis,
            False,
        ),
        Fault("API frozen (SIGSTOP)", "api", "Requests wait or are sent again.", freeze_api, False),
    ]
