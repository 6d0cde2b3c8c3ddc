"""Running the pieces of `shared.broker` in a test, and looking at queues from outside."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from shared.broker.publisher import Publisher
from shared.broker.topology import declare_topology
from shared.kinds.registry import KINDS
from shared.settings import Settings


@asynccontextmanager
async def running(service: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run a service while inside, then cancel it; its own failure fails the test."""
    task = asyncio.create_task(service)
    try:
        yield
    finally:
        was_running = not task.done()
        task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
        if not was_running and isinstance(results[0], BaseException):
            raise results[0]


@asynccontextmanager
async def running_publisher(url: str, *, timeout_seconds: float = 10.0) -> AsyncIterator[Publisher]:
    """Yield a connected publisher that has declared the topology."""
    publisher = Publisher(
        url,
        name="test publisher",
        timeout_seconds=timeout_seconds,
        prepare=lambda channel: declare_topology(channel, KINDS),
        plain=Settings().amqp_plain,
    )
    async with running(publisher.run()):
        async with asyncio.timeout(20):
            await publisher.wait_ready()
        yield publisher


@asynccontextmanager
async def open_channel(url: str) -> AsyncIterator[AbstractChannel]:
    """Yield a confirming channel on a connection of its own."""
    connection = await aio_pika.connect(url)
    async with connection, connection.channel(on_return_raises=True) as channel:
        yield channel


async def message_count(channel: AbstractChannel, queue: str) -> int:
    """Return how many messages of a queue are ready."""
    declared = await channel.declare_queue(queue, passive=True)
    return declared.declaration_result.message_count or 0


async def get_message(channel: AbstractChannel, queue: str) -> AbstractIncomingMessage:
    """Take and ack the message at the head of a queue, waiting for it if need be."""
    declared = await channel.declare_queue(queue, passive=True)
    async with asyncio.timeout(20):
        while (message := await declared.get(fail=False)) is None:
            await asyncio.sleep(0.02)
    await message.ack()
    return message
