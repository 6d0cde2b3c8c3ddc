"""Taskiq on taskiq-aio-pika: a durable quorum queue, prefetch and tasks 200, ack after the work, uvloop."""

import asyncio
from collections.abc import Sequence

import uvloop
from taskiq import TaskiqEvents, TaskiqState
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType

from bench.peers.asking import Asking
from bench.peers.place import PREFETCH, become, read_place, run

PLACE = read_place()

broker = AioPikaBroker(
    PLACE.amqp_url, qos=PREFETCH, task_queues=[Queue(name=PLACE.queue, type=QueueType.QUORUM)]
)
asking = Asking()


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_session(_state: TaskiqState) -> None:
    """Keep one HTTP session for all jobs."""
    await asking.open()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def close_session(_state: TaskiqState) -> None:
    """Close its connections."""
    await asking.close()


@broker.task(task_name="work")
async def task(url: str) -> None:
    """Do the work of one job."""
    await asking.ask(url)


def fill(jobs: int) -> None:
    """Enqueue so many jobs, persistent and confirmed, 200 confirms in flight."""
    uvloop.run(_fill(jobs))


def work(_options: Sequence[str]) -> None:
    """Work until SIGTERM, in one process under Taskiq's supervisor."""
    become(
        "taskiq",
        "worker",
        "bench.peers.taskiq_worker:broker",
        "--workers=1",
        f"--max-async-tasks={PREFETCH}",
        "--ack-type=when_executed",
        "--log-level=WARNING",
    )


async def _fill(jobs: int) -> None:
    await broker.startup()
    for first in range(0, jobs, PREFETCH):
        pages = map(PLACE.page, range(first, min(first + PREFETCH, jobs)))
        await asyncio.gather(*(task.kiq(page) for page in pages))
    await broker.shutdown()


if __name__ == "__main__":
    run(fill=fill, work=work)
