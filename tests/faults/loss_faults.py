"""Messages that are gone while everything works: taken out by a stranger, purged, held back by a restart."""

import asyncio
import random
import time
from functools import partial

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from shared.broker.topology import LARGE_RESULTS_QUEUE, RECORDER_QUEUE, delay_queue, work_queue
from shared.kinds.registry import Lane
from shared.retry import DELAY_STEPS_SECONDS
from tests.faults.broker_faults import delete_queues
from tests.faults.fault import LOST_BROKER, Fault
from tests.faults.own_jobs import OwnBatch, quick_retry, submit, wait_until_done
from tests.faults.target import BUSY_SECONDS
from tests.faults.world import World, blocking, patiently
from tests.support.waiting import eventually

_TAKEN = 100
_TAKEN_DELAY_SECONDS = 5
# So many that a third of them, which one of three consumers gets, is enough.
_VICTIMS = 420
_STEADY_SECONDS = 1.0
# Two minutes are what is promised (99 s were seen), and more where every process waits for the processor.
_ENDED_AFTER_SECONDS = 150.0
# Shorter and longer than a broker needs to restart.
_DELAYS_SECONDS = (2, 3, 4, 5, 6, 8, 10, 12)
_BACK_SECONDS = 60.0
_SETTLED = 120
_DEFERRED = 60
_TAKEN_WITHIN_SECONDS = 60.0


def _keys(rng: random.Random, count: int) -> list[str]:
    return [f"{rng.getrandbits(64):016x}" for _ in range(count)]


async def restart_as_delays_end(world: World, rng: random.Random) -> None:
    """Restart the broker while delays of many lengths end; nothing may stand still for long afterwards."""
    batches = [
        await submit(world, [("flaky", key) for key in _keys(rng, 12)], retry=quick_retry(seconds=seconds))
        for seconds in _DELAYS_SECONDS
    ]
    keys = [key for batch in batches for key in batch.keys]

    async def all_have_failed() -> bool:
        return all(world.target.effects[key] for key in keys)

    await eventually(all_have_failed)
    world.timeline.note("broker stops")
    await blocking(world.broker.stop)
    await blocking(world.broker.start)
    world.timeline.note("broker is back")
    await world.wait_ready()
    await wait_until_done(world, batches, deadline_seconds=_BACK_SECONDS)


async def take_messages(world: World, rng: random.Random) -> None:
    """Let a stranger take jobs out of a work queue and out of a delay queue that are never empty."""
    loaded: list[OwnBatch] = []
    retry = quick_retry(seconds=_TAKEN_DELAY_SECONDS)

    async def load_steadily() -> None:
        while True:
            kinds = ("slow", "slow", "once", "once")
            pages = list(zip(kinds, _keys(rng, len(kinds)), strict=True))
            loaded.append(await submit(world, pages, retry=retry))
            await asyncio.sleep(_STEADY_SECONDS)

    loading = asyncio.create_task(load_steadily())
    try:
        # Pages that fail twice would come back together, and their hosts would be left alone for a while.
        kinds = ("slow", "once") * (_VICTIMS // 2)
        async with asyncio.TaskGroup() as group:
            for queue in (work_queue("fetch", Lane.BULK), delay_queue(_TAKEN_DELAY_SECONDS)):
                group.create_task(_take(world, queue))
            victims = await submit(world, list(zip(kinds, _keys(rng, len(kinds)), strict=True)), retry=retry)
        world.timeline.note(f"a stranger has taken {_TAKEN} messages each out of a work and a delay queue")
        async with asyncio.timeout(_ENDED_AFTER_SECONDS + 30):
            await wait_until_done(world, [victims, *loaded], deadline_seconds=_ENDED_AFTER_SECONDS)
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
    world.timeline.note("all of them have ended")
    await wait_until_done(world, loaded, deadline_seconds=_BACK_SECONDS)


async def _take(world: World, queue_name: str) -> None:
    """Consume and ack messages of a queue, whatever they are, beside whoever consumes it."""
    taken = 0
    enough = asyncio.Event()

    async def take(message: AbstractIncomingMessage) -> None:
        nonlocal taken
        if taken < _TAKEN:
            taken += 1
            await message.ack()
        if taken == _TAKEN:
            enough.set()

    connection = await aio_pika.connect(world.amqp_url)
    async with connection, asyncio.timeout(_TAKEN_WITHIN_SECONDS):
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=_TAKEN)
        queue = await channel.declare_queue(queue_name, passive=True)
        await queue.consume(take)
        await enough.wait()


async def delete_report_queues(world: World, _rng: random.Random) -> None:
    """Delete the queues of reports under the recorders, again and again, with what is in them."""
    for _ in range(3):
        await delete_queues(world, RECORDER_QUEUE, LARGE_RESULTS_QUEUE)
        await asyncio.sleep(0.5)


async def lose_reports(world: World, rng: random.Random) -> None:
    """Purge reports of attempts that are settled, and send all jobs again by hand."""
    batch = await submit(world, [("slow", key) for key in _keys(rng, _SETTLED)])
    await _wait_for_effects(world, batch, at_least=_SETTLED // 10)
    for ledger in world.ledgers:
        world.timeline.note(f"SIGKILL {ledger.name}, for a while")
        ledger.is_kept_down = True
        ledger.kill()
    try:
        await _wait_for_effects(world, batch, at_least=_SETTLED // 2)
        # Settled attempts, because a worker takes no more than it can have in hand.
        purged = await patiently(partial(_purge, world, RECORDER_QUEUE))
    finally:
        for ledger in world.ledgers:
            ledger.is_kept_down = False
    world.timeline.note(f"{purged} reports are purged")
    assert purged
    await world.wait_ready()
    world.timeline.note(await patiently(partial(blocking, world.ledgers[0].republish)))
    await wait_until_done(world, [batch], deadline_seconds=world.deadline_seconds)


async def lose_deferred(world: World, rng: random.Random) -> None:
    """Kill the workers while jobs wait for a busy host, then purge what waits in the delay queues."""
    deferred = world.log_lines("job_deferred")
    world.target.busy_until = time.monotonic() + BUSY_SECONDS
    batch = await submit(world, [("busy", key) for key in _keys(rng, _DEFERRED)])

    async def many_are_deferred() -> bool:
        return world.log_lines("job_deferred") > deferred + _DEFERRED // 4

    await eventually(many_are_deferred, deadline_seconds=30)
    for worker in world.workers:
        world.timeline.note(f"SIGKILL {worker.name}")
        worker.kill()
    await world.wait_ready()
    purged = await patiently(partial(_purge, world, *map(delay_queue, DELAY_STEPS_SECONDS)))
    world.timeline.note(f"{purged} delayed and deferred jobs are purged")
    assert purged
    await wait_until_done(world, [batch], deadline_seconds=world.deadline_seconds)


async def _wait_for_effects(world: World, batch: OwnBatch, *, at_least: int) -> None:
    async def are_seen() -> bool:
        return sum(bool(world.target.effects[key]) for key in batch.keys) >= at_least

    await eventually(are_seen, deadline_seconds=30)


async def _purge(world: World, *queue_names: str) -> int:
    """Purge queues, as a person does with the console; return how many messages there were."""
    purged = 0
    connection = await aio_pika.connect(world.amqp_url)
    async with connection, connection.channel() as channel:
        for name in queue_names:
            queue = await channel.declare_queue(name, passive=True)
            purged += (await queue.purge()).message_count or 0
    return purged


def loss_faults() -> list[Fault]:
    """Return the faults of messages that are lost with everything at work."""
    return [
        Fault(
            "queues of reports deleted under the recorders",
            "queues",
            "They are declared again; an attempt whose report was lost is made again when it counts as lost.",
            delete_report_queues,
            True,
            spread_seconds=4.0,
            pages=("ok", "slow", "flaky", "large"),
            traces=("consumer_lost",),
            has_third_parties=False,
            is_mixed=False,
        ),
        Fault(
            "reports purged, and all jobs sent again by hand",
            "queues",
            "A settled attempt whose report is gone is made again.",
            lose_reports,
            True,
            has_third_parties=False,
            is_mixed=False,
        ),
        Fault(
            "workers killed and delay queues purged while a host wants no requests",
            "worker",
            "Deferred jobs are published again when they count as lost; no attempt is burnt.",
            lose_deferred,
            True,
            traces=("job_deferred", "job_republished"),
        ),
    ]


def faults_at_default_times() -> list[Fault]:
    """Return the faults that must be over in time with every setting at its default."""
    return [
        Fault(
            "broker restarted while delays end, at default settings",
            "broker",
            "What expired meanwhile goes on within a minute.",
            restart_as_delays_end,
            True,
            spread_seconds=6.0,
            traces=LOST_BROKER,
            is_mixed=False,
        ),
        Fault(
            "200 messages taken out of busy queues, at default settings",
            "queues",
            "Jobs that entered a queue later show that they are lost; all end within two minutes.",
            take_messages,
            True,
            deadline_seconds=120.0,
            traces=("job_republished",),
            is_mixed=False,
        ),
    ]
