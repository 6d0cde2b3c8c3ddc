"""Part (e): what jobs that wait cost, and how late they start; Retriever beside Celery and Dramatiq.

`make bench ARGS=delays`. A worker runs while jobs are enqueued one after another, so many a second, each to
run so many seconds later; so a system that enqueues slower than asked has fewer waiting at once, as
`enqueue_seconds` shows. The URL of a job says when it is due, and the target notes how late it is asked:
waiting, delivery and the worker together, by one clock for all systems. A system whose worker cannot keep
up with the rate is late by that. Memory has its peaks while jobs are enqueued and while they start: what
waiting costs is in the first, if all are enqueued before the first is due.

Each has a broker of its own, one after another. Retriever's jobs come by its API, fifty to a batch, and
wait in its store; of its processes, the worker is compared, and the others are shown.
"""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import aio_pika
import click
import httpx
import orjson
from aio_pika.exceptions import ChannelNotFoundEntity

from bench.contenders import Peer, chosen
from bench.cost import cpu_seconds, family
from bench.memory import MemoryWatch
from bench.report import machine, write_report
from bench.rig import lateness_ms, open_rig, running, served_by
from bench.system import API, LEDGER, WORKERS, open_system
from bench.works import Place, Work
from deploy.local.errors import ControlFailed, LocalError
from deploy.local.processes import wait_until_ready

PEERS = ("Celery, threads", "Dramatiq")
JOBS_A_BATCH = 50
READY_SECONDS = 60.0
# A worker is idle by then, and what it has in memory is what it needs. Celery's declares the queues in which
# jobs wait only after it has begun to consume, and what is enqueued sooner is lost.
IDLE_SECONDS = 5.0
POLL_SECONDS = 0.5
LATEST_SECONDS = 120.0
REQUEST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many jobs are to wait how long, how fast they come, and how long the worker idles before."""

    jobs: int
    seconds: int
    per_second: int
    idle_seconds: float = IDLE_SECONDS


QUICK = Waiting(jobs=200, seconds=2, per_second=100, idle_seconds=3.0)


@click.command()
@click.option("--quick", is_flag=True, help="A few hundred jobs for three seconds: its figures say nothing.")
@click.option("--jobs", default=50_000, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=20, show_default=True, type=click.IntRange(1), help="How long each waits.")
@click.option("--per-second", default=500, show_default=True, type=click.IntRange(1))
def delays(quick: bool, jobs: int, seconds: int, per_second: int) -> None:
    """Delayed jobs: memory of the worker, CPU of the broker, and how late they start."""
    waiting = QUICK if quick else Waiting(jobs, seconds, per_second)
    report: dict[str, Any] = {**machine(), **asdict(waiting)}
    try:
        report["Retriever"] = asyncio.run(_measure_retriever(waiting))
        for peer in chosen(PEERS):
            if isinstance(peer, Peer):
                report[peer.name] = _measure_peer(peer, waiting)
    except LocalError as error:
        print(f"bench delays: {error}", file=sys.stderr)
        sys.exit(1)
    print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    print(f"written to {write_report('delays-quick' if quick else 'delays', report)}")


async def _measure_retriever(waiting: Waiting) -> dict[str, Any]:
    with open_system("postgresql", (API, LEDGER, WORKERS[0])) as system:
        await asyncio.sleep(waiting.idle_seconds)
        memory, broker_before = MemoryWatch(system.pids), cpu_seconds(system.broker_pids)
        with memory.phase("enqueueing"):
            began = time.monotonic()
            await _submit(system.api_url, system.target_url, waiting)
            enqueue_seconds = time.monotonic() - began
        with memory.phase("starting"):
            came = await asyncio.to_thread(_wait_served, system.target_url, waiting)
        if came < waiting.jobs:
            raise ControlFailed(f"only {came} of {waiting.jobs} delayed jobs came.")
        return {
            "came": came,
            "enqueue_seconds": round(enqueue_seconds, 1),
            "late_ms": lateness_ms(system.target_url),
            "memory_mebibytes": memory.report(),
            "broker_cpu_seconds_per_1000": _per_1000(system.broker_pids, broker_before, waiting),
        }


async def _submit(api_url: str, target_url: str, waiting: Waiting) -> None:
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=api_url, timeout=REQUEST_SECONDS) as http:
        for first in range(0, waiting.jobs, JOBS_A_BATCH):
            await asyncio.sleep(began + first / waiting.per_second - time.monotonic())
            due_seconds = time.time() + waiting.seconds
            item = {"url": f"{target_url}/due/{round(due_seconds * 1_000)}", "method": "GET"}
            batch = {
                "kind": "check",
                "items": [item] * min(JOBS_A_BATCH, waiting.jobs - first),
                "dedupe": False,
                "run_at": datetime.fromtimestamp(due_seconds, UTC).isoformat(),
            }
            (await http.post("/batches", json=batch)).raise_for_status()


def _measure_peer(peer: Peer, waiting: Waiting) -> Mapping[str, Any]:
    with open_rig() as rig:
        target = rig.targets[Work.FAST]
        place = Place(rig.amqp_url, Work.FAST, target)
        log = rig.logs / "worker.log"
        with running(peer.command(place), peer.environment(place), log) as process:
            wait_until_ready(
                lambda: asyncio.run(_is_consumed(rig.amqp_url, peer.queue)),
                name=peer.name,
                deadline_seconds=READY_SECONDS,
                is_alive=lambda: process.poll() is None,
                read_log=lambda: log.read_text(errors="replace"),
            )
            time.sleep(waiting.idle_seconds)
            pids = {f"{peer.name} {number}": pid for number, pid in enumerate(family(process.pid), 1)}
            memory, broker_before = MemoryWatch(pids), cpu_seconds(rig.broker_pids)
            with memory.phase("enqueueing"):
                began = time.monotonic()
                peer.delay(place, jobs=waiting.jobs, seconds=waiting.seconds, per_second=waiting.per_second)
                enqueue_seconds = time.monotonic() - began
            with memory.phase("starting"):
                came = _wait_served(target, waiting)
            return {
                # All of them, one hopes; that is for its makers to see to.
                "came": came,
                "enqueue_seconds": round(enqueue_seconds, 1),
                "late_ms": lateness_ms(target),
                "memory_mebibytes": memory.report(),
                "broker_cpu_seconds_per_1000": _per_1000(rig.broker_pids, broker_before, waiting),
            }


async def _is_consumed(amqp_url: str, queue: str) -> bool:
    # Of the queue itself: statistics are up to five seconds old.
    connection = await aio_pika.connect(amqp_url)
    async with connection, connection.channel() as channel:
        try:
            declared = await channel.declare_queue(queue, passive=True)
        except ChannelNotFoundEntity:
            return False
        return bool(declared.declaration_result.consumer_count)


def _wait_served(target: str, waiting: Waiting) -> int:
    """Return how many jobs came, when all have, or two minutes after the last was due."""
    give_up_at = time.monotonic() + waiting.seconds + LATEST_SECONDS
    while (served := served_by(target)) < waiting.jobs and time.monotonic() < give_up_at:
        time.sleep(POLL_SECONDS)
    return served


def _per_1000(pids: Sequence[int], before: float, waiting: Waiting) -> float:
    return round((cpu_seconds(pids) - before) / waiting.jobs * 1_000, 3)
