"""A long run: jobs come steadily, faults at random and two at a time; the seed decides which and when."""

import asyncio
import random
import time

from tests.faults.broker_faults import restart
from tests.faults.catalogue import SINGLE_NODE
from tests.faults.fault import Fault
from tests.faults.oracle import Counts
from tests.faults.quiet import settle
from tests.faults.trial import Verdict, note_crashes
from tests.faults.workload import PAGES, Workload
from tests.faults.world import World

# Two at a time meet often enough, and each still has something left to hurt.
_AT_ONCE = 2
_JOBS_A_WAVE = 60
_WAVE_SECONDS = 5.0
_PAUSE_SECONDS = 2.0
# With some that are in hand for long.
_PAGES = (*PAGES, *PAGES, "long")


async def soak(world: World, *, broker: str, seed: int, minutes: float) -> Verdict:
    """Return what came of all jobs that were acknowledged while faults happened for so many minutes."""
    world.timeline.note(f"SEED={seed}")
    rng = random.Random(seed)
    # RabbitMQ forgets a queue that was declared a moment before it is killed: let all of them reach the disk.
    await restart(world, rng)
    started_at, crashes = time.monotonic(), len(world.crashes)
    ends_at = started_at + minutes * 60
    waves: list[Workload] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(_hand_in(world, waves, random.Random(rng.random()), ends_at))
        busy: set[str] = set()
        for _ in range(_AT_ONCE):
            group.create_task(_hurt(world, busy, random.Random(rng.random()), ends_at))
    world.timeline.note("over; everything is acknowledged")
    await world.wait_ready()
    counts = Counts(unexpected=note_crashes(world, crashes))
    for wave in waves:
        counts += await settle(wave, deadline_seconds=world.deadline_seconds)
    return Verdict(
        fault=f"soak of {minutes:g} minutes{'' if world.is_shortened else ' at default settings'}",
        promise="Nothing is lost, recorded twice or stuck.",
        broker=broker,
        may_repeat=True,
        counts=counts,
        seconds=round(time.monotonic() - started_at, 1),
        seed=seed,
        timeline=world.timeline.since(0),
    )


async def _hand_in(world: World, waves: list[Workload], rng: random.Random, ends_at: float) -> None:
    """Hand in wave after wave; one that a fault holds up does not hold up the next."""
    async with asyncio.TaskGroup() as group:
        while time.monotonic() < ends_at:
            name = f"{rng.getrandbits(32):08x}"
            own = random.Random(rng.getrandbits(64))
            wave = Workload(world, name, own, jobs=_JOBS_A_WAVE, spread_seconds=_WAVE_SECONDS, pages=_PAGES)
            waves.append(wave)
            group.create_task(wave.run())
            await asyncio.sleep(_WAVE_SECONDS)


async def _hurt(world: World, busy: set[str], rng: random.Random, ends_at: float) -> None:
    """Do one fault after the other, never two to the same part at once."""
    while time.monotonic() < ends_at:
        fault = rng.choice([fault for fault in SINGLE_NODE if _may_happen(fault, busy)])
        busy.add(fault.hurts)
        world.timeline.note(f"begin: {fault.name}")
        try:
            await fault.inject(world, rng)
        finally:
            busy.discard(fault.hurts)
        world.timeline.note(f"end: {fault.name}")
        await asyncio.sleep(rng.uniform(0, _PAUSE_SECONDS))


def _may_happen(fault: Fault, busy: set[str]) -> bool:
    return fault.is_mixed and fault.hurts not in busy
