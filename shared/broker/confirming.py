"""A channel on which each publish waits for its own confirm: the short way, or the plain one."""

import asyncio
from typing import Protocol, cast

from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.channel import Channel

from shared.broker.connection import open_channel, teardown_means_lost
from shared.broker.outgoing import Outgoing
from shared.broker.plain_channel import PlainChannel
from shared.broker.short_channel import ShortChannel


class ConfirmingChannel(Protocol):
    """Sends messages and says what became of each."""

    channel: AbstractChannel

    @property
    def is_spent(self) -> bool:
        """Whether it should be replaced, now that nothing is on its way."""

    def send(self, message: Outgoing) -> asyncio.Future[None]:
        """Publish a message; the future is done when the broker has it on disk.

        It gets `MessageUnroutable` when no queue is bound for the routing key, `MessageRefused` when a queue
        rejected it, and `BrokerUnavailable` when no confirm came: it may have been stored all the same.
        """

    def give_up(self) -> None:
        """Tell everybody who waits that no confirm will come."""


async def open_confirming(
    connection: AbstractConnection, *, timeout_seconds: float, plain: bool
) -> ConfirmingChannel:
    """Return a new channel to publish on.

    Args:
        timeout_seconds: Limit of each publish.
        plain: Whether to go the long way, through nothing but what aiormq documents.

    Raises:
        ChannelInvalidStateError, ...: the connection has just closed, and nobody has told yet.
    """
    with teardown_means_lost():
        if plain:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            return PlainChannel(channel, await _underlay(channel), timeout_seconds=timeout_seconds)
        # Confirms are asked for by ourselves, since aiormq would count publishes that it has not made.
        channel = await open_channel(connection)
        underlay = await _underlay(channel)
        await underlay.confirm_delivery()
        return ShortChannel(channel, underlay, timeout_seconds=timeout_seconds)


async def _underlay(channel: AbstractChannel) -> Channel:
    # The abstract one does not know of all that is needed here.
    return cast("Channel", await channel.get_underlay_channel())
