"""Procrastinate: jobs in PostgreSQL; `work worker 50` is its own worker, `work connector 50` only fetches.

The worker runs a no-op task, so many at once. `connector` fetches and finishes through Procrastinate's own
job manager, so many at once, with no worker around it. Both keep finished jobs, as is its default.
"""

import asyncio
import logging
import os
from collections.abc import Sequence

import uvloop
from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status

from bench.peers.place import run

QUEUE = "bench"
JOBS_A_CALL = 1_000
# Its documentation's number; more connections than that gained nothing on two cores.
CONNECTIONS = 10
EMPTY_SECONDS = 0.1

app = App(
    connector=PsycopgConnector(
        conninfo=os.environ["BENCH_DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS
    )
)


@app.task(name="bench.work", queue=QUEUE)
async def task(number: int) -> None:
    """Do nothing, as the agents of the other side do."""


def fill(jobs: int) -> None:
    """Make its tables in an empty database, and enqueue so many jobs."""
    uvloop.run(_fill(jobs))


def work(options: Sequence[str]) -> None:
    """Work until SIGTERM, as the options say: `worker` or `connector`, and how many at once."""
    logging.basicConfig(level=logging.WARNING)
    way, at_once = options
    uvloop.run(_run_worker(int(at_once)) if way == "worker" else _fetch_all(int(at_once)))


async def _fill(jobs: int) -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for first in range(0, jobs, JOBS_A_CALL):
            numbers = range(first, min(jobs, first + JOBS_A_CALL))
            await task.batch_defer_async(*({"number": number} for number in numbers))


async def _run_worker(at_once: int) -> None:
    async with app.open_async():
        await app.run_worker_async(queues=[QUEUE], concurrency=at_once)


async def _fetch_all(at_once: int) -> None:
    async with app.open_async(), asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(_fetch_and_finish())


async def _fetch_and_finish() -> None:
    """Fetch and finish jobs for ever, one after another."""
    jobs = app.job_manager
    worker_id = await jobs.register_worker()
    while True:
        if job := await jobs.fetch_job(queues=[QUEUE], worker_id=worker_id):
            await jobs.finish_job(job, Status.SUCCEEDED, delete_job=False)
        else:
            await asyncio.sleep(EMPTY_SECONDS)


if __name__ == "__main__":
    run(fill=fill, work=work)
