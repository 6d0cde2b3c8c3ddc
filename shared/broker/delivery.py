"""One delivered message and the ways to settle it."""

from collections.abc import Awaitable, Callable, Mapping

from aio_pika.abc import AbstractIncomingMessage

from shared.broker.acks import AckGatherer
from shared.broker.connection import CONNECTION_ERRORS, teardown_means_lost
from shared.errors import DeliveryLost

# Of quorum queues; it is the broker's and ends with the message.
_COUNT_HEADER = "x-delivery-count"


class Delivery:
    """One delivered message; settle it exactly once, by one of the methods."""

    def __init__(
        self, message: AbstractIncomingMessage, acks: AckGatherer, on_settled: Callable[[], None]
    ) -> None:
        """Wrap a message of aio-pika, which stays bound to the channel it came on, whose `acks` these are."""
        self._message = message
        self._acks = acks
        self._tag = message.delivery_tag or 0
        self._on_settled = on_settled
        self.body: bytes = message.body
        self.exchange: str = message.exchange or ""
        self.routing_key: str = message.routing_key or ""
        self.type: str = message.type or ""
        self.correlation_id: str = message.correlation_id or ""
        self.headers: Mapping[str, object] = dict(message.headers)
        count = message.headers.get(_COUNT_HEADER)
        self.returns: int = count if isinstance(count, int) else 0
        """How often the broker took the message back from consumers that died with it, lost or refused it."""

    async def ack(self) -> None:
        """Tell the broker that the message is dealt with.

        Raises:
            DeliveryLost: the channel is gone; the broker delivers the message again.
        """
        await self._settle(self._acks.ack(self._tag))

    async def dead_letter(self) -> None:
        """Refuse the message for good: its queue's dead-letter exchange takes it, at least once.

        Raises:
            DeliveryLost: the channel is gone; the broker delivers the message again.
        """
        await self._settle(self._otherwise(self._message.reject(requeue=False)))

    async def requeue(self) -> None:
        """Give the message back untouched. A nack, because on 4.3 only a reject counts as a delivery.

        Raises:
            DeliveryLost: the channel is gone; the broker requeues the message by itself.
        """
        await self._settle(self._otherwise(self._message.nack(requeue=True)))

    async def refuse(self) -> None:
        """Give the message back as failed: a reject, which counts as a delivery on every version.

        After the queue's delivery limit the broker dead-letters it.

        Raises:
            DeliveryLost: the channel is gone; the broker requeues the message by itself.
        """
        await self._settle(self._otherwise(self._message.reject(requeue=True)))

    async def _otherwise(self, sending: Awaitable[None]) -> None:
        await sending
        # Not before it is sent: a multiple ack that overtakes it would take its message along.
        self._acks.settled(self._tag)

    async def _settle(self, settling: Awaitable[None]) -> None:
        try:
            with teardown_means_lost():
                await settling
        except CONNECTION_ERRORS as error:
            raise DeliveryLost("the channel closed before the message was settled") from error
        finally:
            # Not before it is on its way: whoever waits for the last may close the channel.
            self._on_settled()
