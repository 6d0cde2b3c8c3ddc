"""How fast a queue empties, and what that costs the worker and the broker.

The clock does not run from the worker's start to its last ack: starting and winding down are not the
question. It runs between two looks at the queue: the first when a warm-up's worth of jobs has been taken,
and the last that still finds jobs waiting. Between them a worker has its fill in hand, so as many jobs were
acked as were taken.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from bench.cost import cpu_seconds, family
from deploy.local.errors import ControlFailed
from deploy.local.rabbitmq_api import ask_management
from shared.broker.bundle import bodies_of
from shared.states import JobState

_EVERY_SECONDS = 0.05
# Without statistics the counts are those of the queue's last tick, a second old at most, instead of five.
_TOTALS = "queues/%2F?disable_stats=true&enable_queue_totals=true"
_SETTLED_SECONDS = 60.0
_SETTLED_EVERY_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a queue: how many jobs wait, and the CPU seconds of worker and broker so far."""

    at_seconds: float
    waiting: int
    worker_cpu_seconds: float
    broker_cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Pace:
    """What a worker reached between two looks."""

    jobs: int
    seconds: float
    jobs_per_second: float
    worker_cpu_seconds_per_1000: float
    broker_cpu_seconds_per_1000: float


def pace_between(looks: Sequence[Look]) -> Pace:
    """Return the pace from the first look to the last that found jobs waiting.

    Raises:
        ValueError: there are no two such looks with progress between them; the run was too short.
    """
    busy = [look for look in looks if look.waiting > 0]
    if not busy or busy[0].waiting == busy[-1].waiting:
        raise ValueError("the queue was empty too soon to measure anything; take more jobs")
    first, last = busy[0], busy[-1]
    jobs, seconds = first.waiting - last.waiting, last.at_seconds - first.at_seconds
    return Pace(
        jobs=jobs,
        seconds=round(seconds, 3),
        jobs_per_second=round(jobs / seconds, 1),
        worker_cpu_seconds_per_1000=_per_1000(last.worker_cpu_seconds - first.worker_cpu_seconds, jobs),
        broker_cpu_seconds_per_1000=_per_1000(last.broker_cpu_seconds - first.broker_cpu_seconds, jobs),
    )


async def count_waiting(channel: AbstractChannel, queue: str) -> int:
    """Return how many messages are ready in a queue, as it knows itself at this moment."""
    declared = await channel.declare_queue(queue, passive=True)
    return declared.declaration_result.message_count or 0


async def take_ends(channel: AbstractChannel, queue: str) -> int:
    """Take all messages out of a queue of reports; return how many ends of attempts they told of."""
    left = await count_waiting(channel, queue)
    ends, taken = 0, asyncio.Event()

    async def take(message: AbstractIncomingMessage) -> None:
        nonlocal ends, left
        # An attempt that takes half a second is told of when it begins, too.
        if not (message.routing_key or "").endswith(f".{JobState.RUNNING}"):
            ends += len(bodies_of(message.body))
        left -= 1
        if not left:
            taken.set()

    if left:
        results = await channel.get_queue(queue, ensure=False)
        tag = await results.consume(take, no_ack=True)
        await taken.wait()
        await results.cancel(tag)
    return ends


async def watch_draining(
    channel: AbstractChannel,
    queue: str,
    *,
    until_waiting: int,
    jobs_per_message: int,
    worker_pid: int,
    broker_pids: Sequence[int],
    is_alive: Callable[[], bool],
    deadline_seconds: float,
) -> list[Look]:
    """Return looks at a queue, from when only so many jobs wait until none does.

    Raises:
        ControlFailed: the worker ended, or it was not done in time.
    """
    looks: list[Look] = []
    worker_pids: tuple[int, ...] = ()
    give_up_at = time.monotonic() + deadline_seconds
    while True:
        waiting = jobs_per_message * await count_waiting(channel, queue)
        if waiting <= until_waiting:
            # By now it has started all the processes that work for it.
            worker_pids = worker_pids or family(worker_pid)
            looks.append(Look(time.monotonic(), waiting, cpu_seconds(worker_pids), cpu_seconds(broker_pids)))
        if waiting == 0:
            return looks
        if not is_alive() or time.monotonic() > give_up_at:
            raise ControlFailed(f"{waiting} jobs were left in {queue}: the worker ended or is too slow.")
        await asyncio.sleep(_EVERY_SECONDS)


async def wait_settled(management_url: str, queue: str) -> None:
    """Return when the broker says that nothing waits in a queue and nothing is unacked.

    Raises:
        ControlFailed: they did not in a minute.
    """
    give_up_at = time.monotonic() + _SETTLED_SECONDS
    while time.monotonic() < give_up_at:
        told = await asyncio.to_thread(ask_management, management_url, _TOTALS)
        if any(of["name"] == queue and of["messages"] == 0 for of in told or ()):
            return
        await asyncio.sleep(_SETTLED_EVERY_SECONDS)
    raise ControlFailed(f"{queue} still has jobs that nobody acked.")


def _per_1000(seconds: float, jobs: int) -> float:
    return round(seconds / jobs * 1_000, 3)
