"""How often the broker was told that batches are complete: a queue of our own on `outcomes`."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import orjson
from aio_pika.abc import AbstractIncomingMessage

from shared.broker.topology import OUTCOMES

_KEY = "batch.completed"


class Completions:
    """The completion messages seen so far, by batch."""

    def __init__(self) -> None:
        """Make a count of nothing."""
        self._seen: Counter[str] = Counter()
        self._changed = asyncio.Event()

    async def take(self, message: AbstractIncomingMessage) -> None:
        """Count a message."""
        self._seen[orjson.loads(message.body)["id"]] += 1
        self._changed.set()

    async def settled(self, batch_id: str, *, first_seconds: float, more_seconds: float) -> int:
        """Return how many came for a batch: waits for the first, then a while for one too many."""
        try:
            async with asyncio.timeout(first_seconds):
                while not self._seen[batch_id]:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return 0
        # Not to wait for a state: what must not come has no sign.
        await asyncio.sleep(more_seconds)
        return self._seen[batch_id]


@asynccontextmanager
async def counted_completions(amqp_url: str) -> AsyncIterator[Completions]:
    """Yield a count that goes on while inside."""
    completions = Completions()
    connection = await aio_pika.connect(amqp_url)
    async with connection, connection.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(OUTCOMES, _KEY)
        await queue.consume(completions.take, no_ack=True)
        yield completions
