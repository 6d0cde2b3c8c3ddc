"""The floor: what aio-pika and aiohttp reach with nothing around them. No framework, no retries, no results.

A durable quorum queue, prefetch 200, ack after the work, uvloop.
"""

import asyncio
import signal
from collections.abc import Sequence

import aio_pika
import uvloop
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from bench.peers.asking import Asking
from bench.peers.place import PREFETCH, read_place, run

PLACE = read_place()


def fill(jobs: int) -> None:
    """Enqueue so many jobs, persistent and confirmed, 200 confirms in flight."""
    uvloop.run(_fill(jobs))


def work(_options: Sequence[str]) -> None:
    """Work until SIGTERM."""
    uvloop.run(_work())


async def _fill(jobs: int) -> None:
    connection = await aio_pika.connect(PLACE.amqp_url)
    async with connection, connection.channel() as channel:
        await _declare(channel)
        for first in range(0, jobs, PREFETCH):
            publishing = (
                channel.default_exchange.publish(_message(number), PLACE.queue, mandatory=False)
                for number in range(first, min(first + PREFETCH, jobs))
            )
            await asyncio.gather(*publishing)


def _message(number: int) -> aio_pika.Message:
    return aio_pika.Message(PLACE.page(number).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)


async def _work() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    connection = await aio_pika.connect(PLACE.amqp_url)
    asking = Asking()
    await asking.open()
    async with connection, connection.channel() as channel:
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await _declare(channel)
        await queue.consume(lambda message: _handle(asking, message))
        await stop.wait()
    await asking.close()


async def _handle(asking: Asking, message: AbstractIncomingMessage) -> None:
    await asking.ask(message.body.decode())
    await message.ack()


async def _declare(channel: AbstractChannel) -> AbstractQueue:
    return await channel.declare_queue(PLACE.queue, durable=True, arguments={"x-queue-type": "quorum"})


if __name__ == "__main__":
    run(fill=fill, work=work)
