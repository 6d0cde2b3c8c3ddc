"""Cancellations as a worker knows them, also when the whole stream is read again after a loss."""

import asyncio
import uuid
from typing import Any

import pytest

from consumer.cancellations import Cancellations
from shared.events import Cancellation
from shared.kinds.registry import Lane
from shared.messages import JobMessage


def message(*, run: int, job_id: uuid.UUID | None = None) -> JobMessage:
    args = {"url": "http://example.com/"}
    return JobMessage(id=job_id or uuid.uuid4(), kind="check", lane=Lane.BULK, args=args, run=run)


def this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


@pytest.fixture
def cancellations() -> Cancellations:
    return Cancellations("amqp://nowhere/", name="test")


def test_reading_the_stream_again_takes_no_cancellation_back(cancellations: Cancellations) -> None:
    job_id = uuid.uuid4()
    first = Cancellation(job_id=job_id, run=1).encode()
    second = Cancellation(job_id=job_id, run=2).encode()
    for body in (first, second, first):
        cancellations._take(body)

    assert cancellations.has(message(job_id=job_id, run=2))
    assert not cancellations.has(message(job_id=job_id, run=3))


async def test_reading_the_stream_again_cancels_nothing_twice(cancellations: Cancellations) -> None:
    job, started, cancels = message(run=1), asyncio.Event(), 0

    async def attempt() -> bool:
        nonlocal cancels
        with cancellations.watching(job, this_task()):
            started.set()
            for _ in range(2):
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    cancels += 1
                    cancellations._take(body)
        return cancellations.was_cancelled()

    body = Cancellation(job_id=job.id, run=1).encode()
    task = asyncio.create_task(attempt())
    await started.wait()
    cancellations._take(body)
    cancellations._take(body)

    assert (await task, cancels) == (True, 1)


async def test_reading_the_stream_again_leaves_a_later_run_alone(cancellations: Cancellations) -> None:
    job, started = message(run=2), asyncio.Event()

    async def attempt() -> str:
        with cancellations.watching(job, this_task()):
            started.set()
            await asyncio.sleep(0)
        return "done"

    body = Cancellation(job_id=job.id, run=1).encode()
    cancellations._take(body)
    task = asyncio.create_task(attempt())
    await started.wait()
    cancellations._take(body)

    assert await task == "done"
