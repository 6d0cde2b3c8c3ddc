"""FastStream: a durable quorum queue, prefetch 200, ack after the work, uvloop, no line of log a message."""

import asyncio
from collections.abc import Sequence

import uvloop
from faststream import FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from bench.peers.asking import Asking
from bench.peers.place import PREFETCH, read_place, run

PLACE = read_place()

broker = RabbitBroker(PLACE.amqp_url, logger=None, default_channel=Channel(prefetch_count=PREFETCH))
queue = RabbitQueue(PLACE.queue, durable=True, queue_type=QueueType.QUORUM)
asking = Asking()
app = FastStream(broker, logger=None)
app.on_startup(asking.open)
app.after_shutdown(asking.close)


@broker.subscriber(queue)
async def handle(url: str) -> None:
    """Do the work of one job."""
    await asking.ask(url)


def fill(jobs: int) -> None:
    """Enqueue so many jobs, persistent and confirmed, 200 confirms in flight."""
    uvloop.run(_fill(jobs))


def work(_options: Sequence[str]) -> None:
    """Work until SIGTERM."""
    uvloop.run(app.run())


async def _fill(jobs: int) -> None:
    async with broker:
        await broker.declare_queue(queue)
        for first in range(0, jobs, PREFETCH):
            pages = map(PLACE.page, range(first, min(first + PREFETCH, jobs)))
            await asyncio.gather(*(broker.publish(page, queue, persist=True) for page in pages))


if __name__ == "__main__":
    run(fill=fill, work=work)
