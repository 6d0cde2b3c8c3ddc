"""One channel for what is asked of the broker every few seconds.

aio-pika 10.2 on aiormq 7.2 keeps 4 KiB of every channel until its connection ends, though it was closed: it
takes its callbacks off another future than the one it put them on. A channel in five seconds is 70 MiB a day.
"""

from aio_pika.abc import AbstractChannel, AbstractConnection

from shared.broker.connection import open_channel


class KeptChannel:
    """A channel of a connection, opened when it is first asked for, and again when it was closed since."""

    def __init__(self, connection: AbstractConnection) -> None:
        """Keep none yet."""
        self._connection = connection
        self._channel: AbstractChannel | None = None

    async def get(self) -> AbstractChannel:
        """Return the channel. One asks at a time.

        Raises:
            ChannelInvalidStateError: the connection has just closed, and nobody has told yet.
        """
        if self._channel is None or self._channel.is_closed:
            self._channel = await open_channel(self._connection)
        return self._channel

    def drop(self) -> None:
        """Let go of the channel: the broker has closed it, or will."""
        self._channel = None
