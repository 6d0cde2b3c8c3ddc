"""A channel to consume on: the short way, and the plain one."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aiormq.channel import Channel
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from shared.broker.acks import gather_acks
from shared.broker.connection import open_channel
from shared.broker.delivery import Settling
from shared.broker.intake import Intake
from shared.broker.tap import Incoming, Tap


@dataclass(frozen=True, slots=True, eq=False)
class ConsumingChannel:
    """A channel of one consumer at a time, and how what it delivers is settled."""

    pika: AbstractChannel
    settling: Settling
    callback: Callable[[AbstractIncomingMessage], Awaitable[None]]

    @property
    def is_closed(self) -> bool:
        """Whether it was lost or closed."""
        return bool(self.pika.is_closed)

    async def consume(self, queue: AbstractQueue) -> str:
        """Let what the queue delivers go into the intake; return the consumer's tag."""
        return await queue.consume(self.callback)


async def open_consuming(
    connection: AbstractConnection, intake: Intake, *, plain: bool, on_lost: Callable[[], None]
) -> ConsumingChannel:
    """Return a new channel on which messages go into an intake.

    Args:
        plain: As `RETRIEVER_AMQP_PLAIN`.
        on_lost: Called when its consumer, or all of it, was lost.

    Raises:
        ChannelInvalidStateError, ...: the connection has just closed, and nobody has told yet.
    """
    channel = await open_channel(connection)
    channel.close_callbacks.add(lambda *_: on_lost())
    # The abstract one does not know of all that is needed.
    underlay = cast("Channel", await channel.get_underlay_channel())
    underlay.on_consumer_cancel_callbacks.add(lambda _: on_lost())
    settling = Settling(underlay, gather_acks(underlay))
    receive = partial(intake.receive, settling)
    if plain:
        return ConsumingChannel(channel, settling, partial(_receive_plainly, receive))
    Tap(underlay, receive)
    return ConsumingChannel(channel, settling, _never)


async def _receive_plainly(receive: Callable[[Incoming], None], message: AbstractIncomingMessage) -> None:
    properties = Basic.Properties(
        headers=dict(message.headers), correlation_id=message.correlation_id, message_type=message.type
    )
    tag, again = message.delivery_tag or 0, bool(message.redelivered)
    exchange, routing_key = message.exchange or "", message.routing_key or ""
    receive(Incoming(tag, again, exchange, routing_key, ContentHeader(properties=properties), message.body))


async def _never(message: AbstractIncomingMessage) -> None:
    raise RuntimeError(f"a message came past the tap: {message.delivery_tag}")
