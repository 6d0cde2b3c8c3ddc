"""Replacing two classes of aiormq and aio-pika in this process, at its start and never at import."""

from collections.abc import Awaitable, Callable
from typing import Any, Self

import aio_pika.channel
import aiormq.connection
from aio_pika.abc import UnderlayChannel
from aio_pika.tools import OneShotCallback
from aiormq.abc import AbstractConnection
from aiormq.connection import FrameReceiver

from shared.broker.fast.frames import FrameReader


def patch_libraries(*, plain: bool) -> None:
    """Let connections opened from now on use our classes, or with `plain` those of the libraries.

    Plain costs processor time, as `RETRIEVER_AMQP_PLAIN` says, and memory: see `ReleasedChannel`.
    """
    aiormq.connection.FrameReceiver = FrameReceiver if plain else FrameReader  # type: ignore[misc]
    underlay = UnderlayChannel if plain else ReleasedChannel
    aio_pika.channel.UnderlayChannel = underlay  # type: ignore[attr-defined]


class ReleasedChannel(UnderlayChannel):
    """A channel that its connection forgets when it is closed, whoever closed it.

    aio-pika 10.2 waits for the end of a channel's connection with a future that aiormq 7.2 makes anew each
    time it is asked for, and so removes its callback from another future than the one it added it to. Each
    channel leaves 4 KiB until its connection ends. The consumer of a quiet queue opens a channel every half
    minute: on the plain way a process grows by some 10 MiB a day for each quiet queue that it consumes.
    """

    @classmethod
    async def create(
        cls, connection: AbstractConnection, close_callback: Callable[..., Awaitable[Any]], **kwargs: Any
    ) -> Self:
        """Open a channel; the callback is told once of its end, or of the connection's."""
        told = OneShotCallback(close_callback)
        await connection.ready()
        connection_ends = connection.closing
        connection_ends.add_done_callback(told)

        def forget(_: object = None) -> None:
            # Cancelling the future takes it off the connection, and ends nothing else.
            connection_ends.remove_done_callback(told)
            connection_ends.cancel()

        try:
            channel = await connection.channel(**kwargs)
        except BaseException:
            forget()
            raise
        channel_ends = channel.closing
        channel_ends.add_done_callback(told)
        channel_ends.add_done_callback(forget)
        return cls(channel=channel, close_callback=told)

    async def close(self, exc: Any = None) -> None:
        """Close it, and return when the callback has been told."""
        if not self.close_callback.finished.is_set():
            await self.channel.close(exc)
            await self.close_callback.wait()
