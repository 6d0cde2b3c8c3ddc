"""Reading a stream from its start, again on every new connection, and proving that it is still read."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

from shared.broker.connection import (
    REQUEST_SECONDS,
    close_channel,
    keep_connected,
    open_channel,
    underlay_of,
)
from shared.broker.delivery import AckGatherer, gather_acks

# A stream delivers only under a prefetch limit, and goes on as messages are acked.
_PREFETCH = 500
# Most streams are silent for hours, and a broker can end a channel without telling. So a reader that has
# heard nothing for this long subscribes anew, as consumers of queues do (`subscriber`).
_RENEW_SECONDS = 30.0
_OFFSET_HEADER = "x-stream-offset"
_FIRST = "first"

logger = logging.getLogger(__name__)


class StreamReader:
    """Hands every message of a stream to `take`, with the name of the exchange that it came through.

    They come in order, and all of them again after each loss.

    No offset outlives a connection: a new broker has a new stream, and the reader would skip its first
    messages. Within a connection a quiet reader subscribes anew at the last message that it has read, which
    must come once more: that proves that the stream is the same, and that its messages arrive.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        stream: str,
        take: Callable[[bytes, str], None],
        renew_seconds: float = _RENEW_SECONDS,
    ) -> None:
        """Make a reader that is not connected yet; `take` must not block or raise, and is idempotent."""
        self._url = url
        self._name = name
        self._stream = stream
        self._take = take
        self._renew_seconds = renew_seconds
        self._heard_at = -math.inf

    @property
    def is_well(self) -> bool:
        """Whether the stream is known to be read: a message or a new subscription proved it not long ago."""
        return self._quiet_seconds <= 2 * self._renew_seconds

    async def run(self) -> None:
        """Read until cancelled."""
        await keep_connected(self._url, name=self._name, use=self._read)

    @property
    def _quiet_seconds(self) -> float:
        return time.monotonic() - self._heard_at

    async def _read(self, connection: AbstractConnection) -> None:
        """Read until the subscription is lost; a new connection then sets everything up again."""
        before: _Subscription | None = None
        while True:
            last = before.last if before is not None else None
            async with asyncio.timeout(REQUEST_SECONDS):
                subscription = await self._subscribe(connection, last)
            is_another = last is not None and not await subscription.is_proved()
            for ended in [
                each for each in (before, subscription if is_another else None) if each is not None
            ]:
                # Where the broker has ended the channel, it does not answer, or ends the connection, too.
                await ended.end()
            if is_another:
                logger.info("stream_made_anew", extra={"stream": self._stream})
                before = None
                continue
            self._heard_at = time.monotonic()
            if not await self._read_until_quiet(subscription):
                return
            before = subscription

    async def _subscribe(self, connection: AbstractConnection, last: "_Read | None") -> "_Subscription":
        channel = await open_channel(connection)
        underlay = await underlay_of(channel)
        acks = gather_acks(underlay)
        subscription = _Subscription(channel, acks, self._take_read, expected=last, last=last)
        channel.close_callbacks.add(lambda *_: subscription.lost.set())
        underlay.on_consumer_cancel_callbacks.add(lambda _: subscription.lost.set())
        await channel.set_qos(prefetch_count=_PREFETCH)
        queue = await channel.declare_queue(self._stream, passive=True)
        offset = _FIRST if last is None else last.offset
        await queue.consume(subscription.receive, arguments={_OFFSET_HEADER: offset})
        logger.debug("stream_reading", extra={"stream": self._stream, "offset": offset})
        return subscription

    async def _read_until_quiet(self, subscription: "_Subscription") -> bool:
        """Return True when nothing was heard for long, and False when the subscription was lost."""
        while (rest_seconds := self._renew_seconds - self._quiet_seconds) > 0:
            try:
                async with asyncio.timeout(rest_seconds):
                    await subscription.lost.wait()
            except TimeoutError:
                continue
            return False
        return not subscription.lost.is_set()

    def _take_read(self, body: bytes, exchange: str) -> None:
        self._heard_at = time.monotonic()
        self._take(body, exchange)


@dataclass(frozen=True, slots=True)
class _Read:
    """A message that was read: its place in the stream, and what tells it from another stream's."""

    offset: int
    body: bytes


@dataclass(slots=True)
class _Subscription:
    """One consumer of the stream; one that expects a message hands on nothing before that has come again."""

    channel: AbstractChannel
    acks: AckGatherer
    take: Callable[[bytes, str], None]
    expected: _Read | None
    last: _Read | None
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    first_came: asyncio.Event = field(default_factory=asyncio.Event)
    is_another: bool = False
    is_over: bool = False

    async def is_proved(self) -> bool:
        """Return whether the expected message has come, or comes soon."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self.first_came.wait()
        except TimeoutError:
            return False
        return not self.is_another

    async def receive(self, message: AbstractIncomingMessage) -> None:
        """Take a message, unless it is the expected one, or the stream is another."""
        if self.is_over:
            # The next subscription begins before it.
            return
        offset = message.headers.get(_OFFSET_HEADER)
        # What strangers put into their headers may hide the broker's own. Such a message is no place to begin
        # at: what has come since the last that is one comes, and is taken, again.
        read = _Read(offset, message.body) if isinstance(offset, int) else None
        is_first = not self.first_came.is_set()
        self.first_came.set()
        if is_first and self.expected is not None:
            self.is_another = read != self.expected
        elif not self.is_another:
            self.last = read or self.last
            self.take(message.body, message.exchange or "")
        self.acks.ack(message.delivery_tag or 0, _nothing)

    async def end(self) -> None:
        """Take nothing more, and close the channel when the last ack is sent.

        The broker ends the connection for an ack that comes behind the close of its channel, and as many as
        the prefetch limit allows may come while that is on its way.

        Raises:
            TimeoutError: the broker reads nothing.
        """
        self.is_over = True
        async with asyncio.timeout(REQUEST_SECONDS):
            await self.acks.wait_sent()
        await close_channel(self.channel)


def _nothing() -> None:
    pass
