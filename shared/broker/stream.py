"""Reading a stream from its start, again on every new connection."""

import asyncio
import logging
from collections.abc import Callable

from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from shared.broker.connection import keep_connected, open_channel

# A stream delivers only under a prefetch limit, and goes on as messages are acked.
_PREFETCH = 500
_SETUP_SECONDS = 10.0
_OFFSET_HEADER = "x-stream-offset"

logger = logging.getLogger(__name__)


class StreamReader:
    """Hands every message of a stream to `take`, in order, and all of them again after each loss.

    It remembers no offset: a new broker has a new stream, and the reader would skip its first messages.
    """

    def __init__(self, url: str, *, name: str, stream: str, take: Callable[[bytes], None]) -> None:
        """Make a reader that is not connected yet; `take` must not block or raise, and is idempotent."""
        self._url = url
        self._name = name
        self._stream = stream
        self._take = take

    async def run(self) -> None:
        """Read until cancelled."""
        await keep_connected(self._url, name=self._name, use=self._read)

    async def _read(self, connection: AbstractConnection) -> None:
        lost = asyncio.Event()
        async with asyncio.timeout(_SETUP_SECONDS):
            channel = await open_channel(connection)
            channel.close_callbacks.add(lambda *_: lost.set())
            underlay = await channel.get_underlay_channel()
            underlay.on_consumer_cancel_callbacks.add(lambda _: lost.set())
            await channel.set_qos(prefetch_count=_PREFETCH)
            queue = await channel.declare_queue(self._stream, passive=True)
            await queue.consume(self._on_message, arguments={_OFFSET_HEADER: "first"})
        logger.debug("stream_reading", extra={"stream": self._stream})
        await lost.wait()
        # A new connection sets everything up again.
        await connection.close()

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        self._take(message.body)
        await message.ack()
