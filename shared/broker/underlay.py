"""Letting go of channels that are closed.

aio-pika 10.2 waits for the end of a channel's connection with a future that aiormq 7.2 makes anew each time
it is asked for, and so takes its callback off another than the one it put it on: 4 KiB of each channel stay
until the connection ends. A consumer of a quiet queue opens one every half minute: 10 MiB a day.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Self

import aio_pika.channel
from aio_pika.abc import UnderlayChannel
from aio_pika.tools import OneShotCallback
from aiormq.abc import AbstractConnection


class ReleasedChannel(UnderlayChannel):
    """A channel that its connection forgets when it is closed, whoever closed it."""

    @classmethod
    async def create(
        cls, connection: AbstractConnection, close_callback: Callable[..., Awaitable[Any]], **kwargs: Any
    ) -> Self:
        """Open a channel; the callback is told of its end, or of the connection's, once."""
        told = OneShotCallback(close_callback)
        await connection.ready()
        connection_ends = connection.closing
        connection_ends.add_done_callback(told)

        def forget(_: object = None) -> None:
            # Cancelling it takes it off the connection, and ends nothing else.
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


def release_closed_channels() -> None:
    """Let all channels of this process be of that kind from now on."""
    aio_pika.channel.UnderlayChannel = ReleasedChannel  # type: ignore[attr-defined]
