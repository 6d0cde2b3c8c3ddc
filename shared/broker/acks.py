"""Acknowledging many deliveries of a channel with few frames.

An ack is what an event loop and a broker pay most for at high rates. One that names a tag and all before it
(`multiple`) costs a quorum queue hardly more than one that names a tag alone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiormq.channel import Channel

from shared.broker.connection import CONNECTION_ERRORS, teardown_means_lost

# No more often than that acks are sent: those that come meanwhile go together, and a process that dies in
# that time repeats that much more. One that comes after a pause goes at once.
_GATHER_SECONDS = 0.001

logger = logging.getLogger(__name__)


class AckGatherer:
    """Acknowledges the deliveries of one channel: the lowest that are finished by one ack, others singly.

    The broker closes a channel on which a tag is settled twice. So a tag that was settled otherwise is told
    of, after that was sent, and is never the one that a multiple ack names.
    """

    def __init__(self, send: Callable[[int, bool], Awaitable[None]]) -> None:
        """Make one for a new channel; `send` writes an ack of a tag, and of all before it when asked to."""
        self._send = send
        # The lowest tag that is not settled, and those above it that are.
        self._lowest = 1
        self._settled: set[int] = set()
        self._finished: set[int] = set()
        self._waiting: list[Callable[[], None]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._sent_at = 0.0

    def ack(self, tag: int, on_sent: Callable[[], None]) -> None:
        """Acknowledge a tag together with others of these milliseconds.

        Args:
            on_sent: Called when it is on its way, or cannot be: then the broker delivers the message again.
        """
        self._finished.add(tag)
        self._waiting.append(on_sent)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush_soon())

    def settled(self, tag: int) -> None:
        """Take note that a tag was settled otherwise; call it when that has been sent, not before."""
        self._settled.add(tag)

    async def wait_sent(self) -> None:
        """Return when everything acknowledged so far is on its way, or cannot be."""
        while self._flushing is not None:
            await asyncio.wait({self._flushing})

    async def _flush_soon(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(self._sent_at + _GATHER_SECONDS - loop.time(), 0.0))
        try:
            while self._finished:
                self._sent_at = loop.time()
                await self._flush_told()
        finally:
            self._flushing = None

    async def _flush_told(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            with teardown_means_lost():
                await self._flush()
        except CONNECTION_ERRORS as error:
            logger.info("acks_lost", extra={"deliveries": len(waiting), "error": repr(error)[:300]})
        finally:
            for on_sent in waiting:
                on_sent()

    async def _flush(self) -> None:
        highest = self._pass_finished()
        # Not held back until those below them have ended: a worker that dies would repeat them all.
        apart = sorted(self._finished)
        self._settled |= self._finished
        self._finished = set()
        if highest is not None:
            await self._send(highest, True)
        for tag in apart:
            await self._send(tag, False)

    def _pass_finished(self) -> int | None:
        """Move on over all that is settled or finished; return the highest tag that was finished."""
        highest = None
        while self._lowest in self._settled or self._lowest in self._finished:
            if self._lowest in self._finished:
                self._finished.remove(self._lowest)
                highest = self._lowest
            self._settled.discard(self._lowest)
            self._lowest += 1
        return highest


def gather_acks(channel: Channel) -> AckGatherer:
    """Return what acknowledges the deliveries of a new channel of aiormq."""

    async def send(tag: int, multiple: bool) -> None:
        # Not waiting until the socket has taken it: the next request on the channel shows that.
        await channel.basic_ack(tag, multiple=multiple, wait=False)

    return AckGatherer(send)
