"""Part (c): how fast jobs are accepted for good, and how fast the relay hands them to the broker.

`make bench ARGS=submission`. First the API alone takes a batch of many lines: seconds to its 202. Then a
ledger starts and relays them, and nobody works on them; their queue is watched as it fills. A message there
carries several jobs, and jobs are what is counted. After it, on the same broker, a bare aio-pika publishes as
many jobs, each in a message of its own, 64 confirms in flight: so does who has a broker and no more. Both
again, for a machine that is shared is not the same from one minute to the next: two more rounds, with the
ledger waiting for the batch. Last, single POSTs, with the ledger at work beside the API.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import aio_pika
import click
import httpx
import uvloop
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel

from bench.batch import submit_lines
from bench.draining import count_waiting
from bench.report import machine, write_report
from bench.system import API, LEDGER, System, open_system
from bench.wrk import Load, post_for
from deploy.local.errors import LocalError
from shared.broker.bundle import bodies_of
from shared.broker.topology import bundle_queue, declare_topology
from shared.kinds.registry import BROKERED_KINDS
from shared.settings import Settings

CONNECTIONS = (1, 16, 64)
QUICK_LINES, QUICK_SECONDS = 2_000, 1
IN_FLIGHT = 64
REQUEST_SECONDS = 600.0
RELAY_SECONDS = 900.0
LOOK_SECONDS = 0.05
ROUNDS = 3
# The first tenth is the ledger's start, the relay's first page and the broker's first segment.
WARM_UP_PART = 0.1
BARE_QUEUE = "bench.bare"
QUEUE = bundle_queue("check")
# As the ledger has it: the system is started without a setting of its own. Pages of the relay are full, so
# are all messages but the last.
JOBS_PER_MESSAGE: int = Settings.model_fields["bundle_jobs"].default

Json = dict[str, Any]


@click.command()
@click.option("--quick", is_flag=True, help="A small batch, seconds of POSTs: its figures say nothing.")
@click.option("--lines", default=100_000, show_default=True, type=click.IntRange(100))
@click.option(
    "--seconds", default=15, show_default=True, type=click.IntRange(1), help="Of each load of POSTs."
)
@click.option("--store", default="postgresql", show_default=True, type=click.Choice(["postgresql", "sqlite"]))
def submission(quick: bool, lines: int, seconds: int, store: str) -> None:
    """Seconds to the 202 of a batch, the relay's rate, and single POSTs a second."""
    lines, seconds = (QUICK_LINES, QUICK_SECONDS) if quick else (lines, seconds)
    report: Json = {**machine(), "store": store, "lines": lines}
    try:
        with open_system(store, (API,)) as system:
            report |= uvloop.run(_measure_batch(system, lines))
            report["posts"] = [asdict(load) for load in _measure_posts(system, seconds)]
    except (LocalError, TimeoutError) as error:
        print(f"bench submission: {error}", file=sys.stderr)
        sys.exit(1)
    print(json.dumps(report, indent=2))
    name = f"submission-{store}-quick" if quick else f"submission-{store}"
    print(f"written to {write_report(name, report)}")


async def _measure_batch(system: System, lines: int) -> Json:
    connection = await aio_pika.connect(system.amqp_url)
    async with (
        httpx.AsyncClient(base_url=system.api_url, timeout=REQUEST_SECONDS) as http,
        connection,
        connection.channel() as channel,
    ):
        # The ledger would declare it, too late for a queue that is to be watched from the start.
        await declare_topology(channel, BROKERED_KINDS)
        rounds = [await _measure_round(system, http, channel, lines) for _ in range(ROUNDS)]
    middle = {name: median(each[name] for each in rounds) for name in rounds[0]}
    relayed, bare = middle["relayed_per_second"], middle["bare_aio_pika_per_second"]
    return {
        **middle,
        "relay_to_bare_aio_pika": round(relayed / bare, 2),
        "jobs_per_message": JOBS_PER_MESSAGE,
        "rounds": rounds,
    }


async def _measure_round(
    system: System, http: httpx.AsyncClient, channel: AbstractChannel, lines: int
) -> dict[str, float]:
    # What the rounds before have left there: nobody works.
    done = await _count_jobs(channel)
    submitting = asyncio.create_task(_seconds_to_202(system, http, lines))
    if not done:
        await submitting
    relayed = await _relayed_per_second(system, channel, lines, done=done)
    bare = await _published_per_second(channel, lines)
    return {
        "seconds_to_202": round(await submitting, 2),
        "relayed_per_second": round(relayed, 1),
        "bare_aio_pika_per_second": round(bare, 1),
    }


async def _seconds_to_202(system: System, http: httpx.AsyncClient, lines: int) -> float:
    began = time.monotonic()
    await submit_lines(http, system.target_url, lines)
    return time.monotonic() - began


async def _relayed_per_second(system: System, channel: AbstractChannel, jobs: int, *, done: int) -> float:
    """Return the relay's rate from the first tenth of the jobs to the last; start the ledger if need be."""
    starting = None if done else asyncio.create_task(asyncio.to_thread(system.start, LEDGER))
    async with asyncio.timeout(RELAY_SECONDS):
        first_at, first = await _look_for(channel, done + int(jobs * WARM_UP_PART))
        last_at, last = await _look_for(channel, done + jobs)
    if starting is not None:
        await starting
    # Both are the same look when all came between two looks, which only a very short run does.
    return (last - first) / max(last_at - first_at, LOOK_SECONDS)


async def _look_for(channel: AbstractChannel, count: int) -> tuple[float, int]:
    """Return when the queue was first seen with so many jobs, and with how many."""
    while True:
        waiting = await _count_jobs(channel)
        if waiting >= count:
            return time.monotonic(), waiting
        await asyncio.sleep(LOOK_SECONDS)


async def _count_jobs(channel: AbstractChannel) -> int:
    return JOBS_PER_MESSAGE * await count_waiting(channel, QUEUE)


async def _published_per_second(channel: AbstractChannel, jobs: int) -> float:
    """Return how fast aio-pika publishes these jobs, each alone: persistent, confirmed, to a quorum queue."""
    await channel.declare_queue(BARE_QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    taken = await (await channel.get_queue(QUEUE, ensure=False)).get(no_ack=True)
    body = bodies_of(taken.body)[0]
    free = asyncio.Semaphore(IN_FLIGHT)

    async def publish() -> None:
        async with free:
            message = Message(body, delivery_mode=DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, BARE_QUEUE)

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(jobs):
            group.create_task(publish())
    return jobs / (time.monotonic() - began)


def _measure_posts(system: System, seconds: int) -> list[Load]:
    body = json.dumps({"kind": "check", "args": {"url": f"{system.target_url}/page"}})
    with TemporaryDirectory(prefix="retriever-bench-wrk-") as folder:
        return [
            post_for(
                f"{system.api_url}/jobs",
                body,
                connections=connections,
                seconds=seconds,
                folder=Path(folder),
            )
            for connections in CONNECTIONS
        ]
