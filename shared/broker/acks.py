"""Acknowledging many deliveries of a channel with few frames.

An ack is what an event loop and a broker pay most for at high rates. One that names a tag and all before it
(`multiple`) costs a quorum queue hardly more than one that names a tag alone.
"""

import asyncio
from collections.abc import Awaitable, Callable

from aio_pika.abc import AbstractChannel

# Some acks come together in that time, and a process that dies in it repeats that much more.
_GATHER_SECONDS = 0.005


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
        self._flushing: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    async def ack(self, tag: int) -> None:
        """Acknowledge a tag together with others of these milliseconds; return when that is on its way.

        Raises:
            ChannelInvalidStateError, ...: whatever `send` raised; the broker delivers the message again.
        """
        self._finished.add(tag)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush_soon())
        await asyncio.shield(self._flushing)

    def settled(self, tag: int) -> None:
        """Take note that a tag was settled otherwise; call it when that has been sent, not before."""
        self._settled.add(tag)

    async def _flush_soon(self) -> None:
        await asyncio.sleep(_GATHER_SECONDS)
        async with self._turn:
            # Who comes from now on is of the next flush.
            self._flushing = None
            await self._flush()

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


def gather_acks(channel: AbstractChannel) -> AckGatherer:
    """Return what acknowledges the deliveries of a new channel."""

    async def send(tag: int, multiple: bool) -> None:
        underlay = await channel.get_underlay_channel()
        # Not waiting until the socket has taken it: the next request on the channel shows that.
        await underlay.basic_ack(tag, multiple=multiple, wait=False)

    return AckGatherer(send)
