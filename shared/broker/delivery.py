"""One delivered message and the ways to settle it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiormq.channel import Channel
from pamqp.commands import Basic

from shared.broker.acks import AckGatherer
from shared.broker.connection import CONNECTION_ERRORS, teardown_means_lost
from shared.broker.tap import Incoming
from shared.errors import DeliveryLost

# Of quorum queues; it is the broker's and ends with the message.
_COUNT_HEADER = "x-delivery-count"


@dataclass(frozen=True, slots=True, eq=False)
class Settling:
    """How messages of one channel are settled; `aiormq` is the channel."""

    aiormq: Channel
    acks: AckGatherer


class Delivery:
    """One delivered message; settle it exactly once, by one of the methods."""

    __slots__ = ("_channel", "_message", "_on_settled", "body")

    def __init__(self, message: Incoming, channel: Settling, on_settled: Callable[[], None]) -> None:
        """Wrap a message, which stays bound to the channel it came on."""
        self._message = message
        self._channel = channel
        self._on_settled = on_settled
        self.body: bytes = message.body

    @property
    def exchange(self) -> str:
        """Where it was published."""
        return self._message.exchange

    @property
    def routing_key(self) -> str:
        """With what it was published."""
        return self._message.routing_key

    @property
    def type(self) -> str:
        """The AMQP property."""
        return self._properties.message_type or ""

    @property
    def correlation_id(self) -> str:
        """The AMQP property: the id of its job."""
        return self._properties.correlation_id or ""

    @property
    def headers(self) -> Mapping[str, object]:
        """What the publisher and the broker noted on it."""
        return self._properties.headers or {}

    @property
    def returns(self) -> int:
        """How often the broker took the message back from consumers that died with it, lost or refused it."""
        if not self._message.is_redelivered:
            return 0
        count = self.headers.get(_COUNT_HEADER)
        return count if isinstance(count, int) else 0

    def ack(self) -> None:
        """Tell the broker within milliseconds that the message is dealt with.

        If the channel is gone by then, it delivers the message again; nobody is told, for whoever consumes
        has to expect that anyway.
        """
        self._channel.acks.ack(self._tag, self._on_settled)

    async def dead_letter(self) -> None:
        """Refuse the message for good: its queue's dead-letter exchange takes it, at least once.

        Raises:
            DeliveryLost: the channel is gone; the broker delivers the message again.
        """
        await self._otherwise(self._channel.aiormq.basic_reject(self._tag, requeue=False))

    async def requeue(self) -> None:
        """Give the message back untouched. A nack, because on 4.3 only a reject counts as a delivery.

        Raises:
            DeliveryLost: the channel is gone; the broker requeues the message by itself.
        """
        await self._otherwise(self._channel.aiormq.basic_nack(self._tag, requeue=True))

    async def refuse(self) -> None:
        """Give the message back as failed: a reject, which counts as a delivery on every version.

        After the queue's delivery limit the broker dead-letters it.

        Raises:
            DeliveryLost: the channel is gone; the broker requeues the message by itself.
        """
        await self._otherwise(self._channel.aiormq.basic_reject(self._tag, requeue=True))

    @property
    def _properties(self) -> Basic.Properties:
        return self._message.header.properties

    @property
    def _tag(self) -> int:
        return self._message.tag

    async def _otherwise(self, sending: Awaitable[None]) -> None:
        try:
            with teardown_means_lost():
                await sending
        except CONNECTION_ERRORS as error:
            raise DeliveryLost("the channel closed before the message was settled") from error
        else:
            # Not before it is sent: a multiple ack that overtakes it would take its message along.
            self._channel.acks.settled(self._tag)
        finally:
            # Not before it is on its way: whoever waits for the last may close the channel.
            self._on_settled()
