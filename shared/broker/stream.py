"""Reading a stream from its start, and going on after every loss where the reading stopped."""

import asyncio
import logging
from collections.abc import Callable

from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from shared.broker.connection import keep_connected, open_channel

# A stream delivers only under a prefetch limit, and goes on as messages are acked.
_PREFETCH = 500
_OFFSET_HEADER = "x-stream-offset"

logger = logging.getLogger(__name__)


class StreamReader:
    """Hands every message of a stream to `take`, in order, each once for as long as this object lives."""

    def __init__(self, url: str, *, name: str, stream: str, take: Callable[[bytes], None]) -> None:
        """Make a reader that is not connected yet; `take` must not block or raise."""
        self._url = url
        self._name = name
        self._stream = stream
        self._take = take
        self._next_offset: int | str = "first"

    async def run(self) -> None:
        """Read until cancelled."""
        await keep_connected(self._url, name=self._name, use=self._read)

    async def _read(self, connection: AbstractConnection) -> None:
        channel = await open_channel(connection)
        lost = asyncio.Event()
        channel.close_callbacks.add(lambda *_: lost.set())
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: lost.set())
        await channel.set_qos(prefetch_count=_PREFETCH)
        queue = await channel.declare_queue(self._stream, passive=True)
        await queue.consume(self._on_message, arguments={_OFFSET_HEADER: self._next_offset})
        logger.debug("stream_reading", extra={"stream": self._stream, "offset": self._next_offset})
        await lost.wait()
        # What is set up anew is set up whole: a new connection, and the next offset.
        await connection.close()

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        offset = message.headers.get(_OFFSET_HEADER)
        # A stream gives whole chunks, which may begin before the offset that was asked for.
        if isinstance(offset, int) and isinstance(self._next_offset, int) and offset < self._next_offset:
            await message.ack()
            return
        self._take(message.body)
        if isinstance(offset, int):
            self._next_offset = offset + 1
        await message.ack()
