"""A broker that restarts, dies, closes, deletes, times out, blocks, refuses and returns."""

import asyncio
import random
from functools import partial

from shared.broker.topology import lane_queues, work_queue
from shared.kinds.registry import KINDS, Lane
from tests.faults.fault import LOST_BROKER, Fault
from tests.faults.own_jobs import call, submit
from tests.faults.world import SILENCE_SECONDS, World, blocking
from tests.support.management import Management
from tests.support.waiting import eventually

# Batches are checks, and third parties publish fetches.
_BULK_QUEUES = (*lane_queues("check", Lane.BULK), *lane_queues("fetch", Lane.BULK))
_DELAY_QUEUE = "jobs.delay.00001s"
_WORK_QUEUES = frozenset(name for kind in KINDS for lane in Lane for name in lane_queues(kind, lane))
# Longer than a publish may take, a heartbeat, and until a job counts as lost.
_ALARM_SECONDS = 15.0
_DEFAULT_TIMEOUT_SECONDS = 1_800.0
# So many that each worker runs some.
_ENDLESS = 6
# Nothing of the workload waits for it: callbacks are of the other lane, or come late.
_PAUSED_KIND = "webhook"
# As long as a reader of a stream, a consumer or a publisher may be deaf, one after the other.
_HEARD_SECONDS = 75.0
# A channel process that ends as if by itself, of which the broker tells its client nothing.
_END_CHANNELS = "[rabbit_channel:shutdown(Channel) || Channel <- rabbit_channel:list()]."


async def restart(world: World, _rng: random.Random) -> None:
    """Stop the broker in order, and start it again."""
    world.timeline.note("broker stops")
    await blocking(world.broker.stop)
    await blocking(world.broker.start)
    world.timeline.note("broker is back")
    await world.wait_ready()


async def kill(world: World, _rng: random.Random) -> None:
    """SIGKILL the broker, and start it again."""
    world.timeline.note("broker SIGKILL")
    await blocking(world.broker.kill)
    await blocking(world.broker.start)
    world.timeline.note("broker is back")
    await world.wait_ready()


async def freeze(world: World, _rng: random.Random) -> None:
    """SIGSTOP the broker for longer than its peers' heartbeats allow."""
    world.timeline.note(f"broker SIGSTOP, {SILENCE_SECONDS:g} s")
    await blocking(world.broker.freeze)
    try:
        await asyncio.sleep(SILENCE_SECONDS)
    finally:
        await blocking(world.broker.thaw)
    await world.wait_ready()


async def close_connections(world: World, _rng: random.Random) -> None:
    """Close every connection with rabbitmqctl."""
    world.timeline.note("rabbitmqctl close_all_connections")
    await world.control("close_all_connections", "--vhost", world.vhost, "a fault of the suite")
    await world.wait_ready()


async def end_channels(world: World, rng: random.Random) -> None:
    """End every channel with rabbitmqctl, without a word to its client; then cancel jobs and pause a lane."""
    keys = [f"{rng.getrandbits(64):016x}" for _ in range(_ENDLESS)]
    batch = await submit(world, [("endless", key) for key in keys], lane="interactive")

    async def are_running() -> bool:
        return all(world.target.effects[key] for key in keys)

    await eventually(are_running, deadline_seconds=60)
    world.timeline.note("rabbitmqctl eval: end all channels")
    await world.control("eval", _END_CHANNELS)
    await call(world, "POST", f"/batches/{batch.batch_id}/cancel")
    await call(world, "POST", f"/kinds/{_PAUSED_KIND}/pause", body={"lane": "bulk"})
    try:
        await eventually(partial(_has_ended, world, batch.batch_id), deadline_seconds=_HEARD_SECONDS)
        world.timeline.note("the running jobs are cancelled")
        await eventually(partial(_is_held, world), deadline_seconds=_HEARD_SECONDS)
        world.timeline.note("the paused queue is left alone")
    finally:
        await call(world, "POST", f"/kinds/{_PAUSED_KIND}/resume", body={"lane": "bulk"})
    await world.wait_ready()


async def _has_ended(world: World, batch_id: str) -> bool:
    counts = (await call(world, "GET", f"/batches/{batch_id}"))["counts"]
    return bool(counts["cancelled"] == _ENDLESS)


async def _is_held(world: World) -> bool:
    """Return whether no worker consumes the paused queue."""
    queue = work_queue(_PAUSED_KIND, Lane.BULK)
    return not (await world.manage(lambda api: api.queue(world.vhost, queue))).get("consumers", 1)


async def delete_work_queues(world: World, _rng: random.Random) -> None:
    """Delete the queues of a lane under their consumers, with all that is in them."""
    await delete_queues(world, *_BULK_QUEUES)


async def delete_delay_queue(world: World, _rng: random.Random) -> None:
    """Delete the delay queue in which jobs wait for their next attempt."""
    await delete_queues(world, _DELAY_QUEUE)


async def delete_queues(world: World, *queues: str) -> None:
    """Delete queues, and return when they have been declared again."""
    world.timeline.note(f"delete {' and '.join(queues)}")
    for queue in queues:
        await world.manage(partial(_delete_queue, world.vhost, queue))
    for queue in queues:
        # An error as long as it has not been declared again.
        await world.manage(partial(_look_at_queue, world.vhost, queue))
    await world.wait_ready()


def _delete_queue(vhost: str, queue: str, api: Management) -> None:
    api.delete_queue(vhost, queue)


def _look_at_queue(vhost: str, queue: str, api: Management) -> None:
    api.queue(vhost, queue)


async def time_consumers_out(world: World, _rng: random.Random) -> None:
    """Let the broker take jobs away that are in hand for longer than its consumer timeout."""
    await _set_consumer_timeout(world, 2.0)
    try:
        taken_before = world.log_lines("consumer_lost")

        async def was_taken() -> bool:
            return world.log_lines("consumer_lost") > taken_before

        await eventually(was_taken, deadline_seconds=20.0)
    finally:
        await _set_consumer_timeout(world, _DEFAULT_TIMEOUT_SECONDS)
    await world.wait_ready()


async def _set_consumer_timeout(world: World, seconds: float) -> None:
    world.timeline.note(f"consumer timeout {seconds:g} s")
    await world.control("eval", f"application:set_env(rabbit, consumer_timeout, {round(seconds * 1_000)}).")
    # On 3.10 a channel keeps the timeout that it began with.
    await world.control("close_all_connections", "--vhost", world.vhost, "another consumer timeout")
    await world.wait_ready()


async def alarm_memory(world: World, _rng: random.Random) -> None:
    """Raise the memory alarm: the broker blocks every connection that publishes."""
    await _alarm(world, "set_vm_memory_high_watermark", low="0", usual="0.6")


async def alarm_disk(world: World, _rng: random.Random) -> None:
    """Raise the disk alarm: the broker blocks every connection that publishes."""
    await _alarm(world, "set_disk_free_limit", low="1000000GB", usual="50MB")


async def _alarm(world: World, limit: str, *, low: str, usual: str) -> None:
    world.timeline.note(f"rabbitmqctl {limit} {low}, {_ALARM_SECONDS:g} s")
    await world.control(limit, low)
    try:
        await asyncio.sleep(_ALARM_SECONDS)
    finally:
        await world.control(limit, usual)
    await world.wait_ready()


async def fill_work_queues(world: World, _rng: random.Random) -> None:
    """Let work queues take two messages and refuse more, until they are empty again.

    The policy stays until then: when it is cleared while a queue is full, RabbitMQ 3.10 goes on refusing.
    """
    world.timeline.note("policy max-length 2 on work queues")
    policy = ("-p", world.vhost, "full", r"^jobs\.(check|fetch|webhook)\.", '{"max-length": 2}')
    await world.control("set_policy", *policy, "--apply-to", "queues")

    async def are_empty() -> bool:
        queues = await world.manage(lambda api: api.queues(world.vhost))
        return not any(queue.get("messages_ready", 1) for queue in queues if queue["name"] in _WORK_QUEUES)

    try:
        await asyncio.sleep(6.0)
        await eventually(are_empty, deadline_seconds=60)
    finally:
        await world.control("clear_policy", "-p", world.vhost, "full")
    await world.wait_ready()


async def unbind(world: World, _rng: random.Random) -> None:
    """Take the bindings of work queues away, so that the broker returns what is published."""
    unbound = (*_BULK_QUEUES, work_queue("fetch", Lane.INTERACTIVE))
    world.timeline.note(f"unbind {', '.join(unbound)}")
    ends_at = asyncio.get_running_loop().time() + 4.0
    while asyncio.get_running_loop().time() < ends_at:
        # Again and again, because they are soon declared again.
        for queue in unbound:
            await world.manage(partial(_unbind, world.vhost, queue))
        await asyncio.sleep(0.2)

    async def are_bound() -> bool:
        return all([await world.manage(partial(_is_bound, world.vhost, queue)) for queue in unbound])

    await eventually(are_bound)
    await world.wait_ready()


def _unbind(vhost: str, queue: str, api: Management) -> None:
    api.unbind(vhost, "jobs", queue)


def _is_bound(vhost: str, queue: str, api: Management) -> bool:
    return bool(api.is_bound(vhost, "jobs", queue))


def broker_faults() -> list[Fault]:
    """Return the faults of a broker of one node."""
    return [
        Fault(
            "broker restarted",
            "broker",
            "Jobs are accepted meanwhile; what was in hand comes again, and who still runs it waits.",
            restart,
            True,
            spread_seconds=6.0,
            traces=LOST_BROKER,
        ),
        Fault(
            "broker killed (SIGKILL)",
            "broker",
            "What it had confirmed is on disk; what it had not is published again.",
            kill,
            True,
            spread_seconds=6.0,
            traces=LOST_BROKER,
        ),
        Fault(
            "broker frozen (SIGSTOP)",
            "broker",
            "Heartbeats give it up; as a restart.",
            freeze,
            True,
            traces=LOST_BROKER,
        ),
        Fault(
            "connections closed by rabbitmqctl",
            "broker link",
            "They come back; deliveries in hand come again.",
            close_connections,
            True,
            traces=LOST_BROKER,
        ),
        Fault(
            "channels ended behind the clients' backs",
            "broker link",
            "A publish is repeated after its timeout, a deaf consumer or reader of a stream subscribes again "
            "within 30 s; no cancellation and no pause is missed.",
            end_channels,
            True,
            deadline_seconds=90.0,
            traces=("consumer_lost", *LOST_BROKER),
        ),
        Fault(
            "work queue deleted under its consumers",
            "queues",
            "It is declared again; jobs that were in it are published again when they count as lost.",
            delete_work_queues,
            True,
            traces=("consumer_lost",),
        ),
        Fault(
            "delay queue deleted with jobs in it",
            "queues",
            "It is declared again; jobs that waited in it are published again when they count as lost.",
            delete_delay_queue,
            True,
            pages=("flaky",),
            traces=("job_republished",),
        ),
        Fault(
            "consumer timeout",
            "broker",
            "The broker takes the job away and gives it again; a worker that still runs it waits.",
            time_consumers_out,
            True,
            spread_seconds=6.0,
            pages=("ok", "ok", "ok", "long"),
            traces=("consumer_lost",),
        ),
        Fault(
            "memory alarm, publishers blocked for 15 s",
            "broker",
            "Publishes end in a timeout and are repeated; jobs are accepted meanwhile.",
            alarm_memory,
            True,
            spread_seconds=8.0,
            is_mixed=False,
            traces=("publish_failed",),
        ),
        Fault(
            "disk alarm, publishers blocked for 15 s",
            "broker",
            "As with memory.",
            alarm_disk,
            True,
            spread_seconds=8.0,
            is_mixed=False,
            traces=("publish_failed",),
        ),
        Fault(
            "work queues full (max-length)",
            "queues",
            "The relay keeps what is refused and tries again after a second.",
            fill_work_queues,
            False,
            spread_seconds=5.0,
            # Longer than the fault, so that those who have hands full take nothing out of the queues.
            pages=("long",),
            traces=("publish_failed",),
        ),
        Fault(
            "work queues unbound (messages returned)",
            "queues",
            "The relay keeps what is returned and declares the topology again.",
            unbind,
            False,
            spread_seconds=4.0,
            traces=("message_unroutable",),
        ),
    ]
