"""Consuming queues under prefetch limits, and coming back after every kind of loss."""

import asyncio
from collections.abc import Collection, Sequence

from aio_pika.abc import AbstractConnection

from shared.broker.connection import keep_connected
from shared.broker.subscriber import Subscriber, Subscription

# A quorum queue that is deleted and declared again at once leaves its consumers deaf: the broker
# never cancels them (seen on 3.10.8). So a consumer that has heard nothing for this long, although
# it has room, is subscribed anew, on a new channel, which takes milliseconds.
_RENEW_SECONDS = 30.0


class Consumer:
    """Consumes queues on one connection, a channel each, until cancelled.

    The tasks that work on deliveries belong to whoever takes them: aiormq cancels what it started
    when a channel closes, and work in hand should be finished.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        subscriptions: Sequence[Subscription],
        renew_seconds: float = _RENEW_SECONDS,
        plain: bool = False,
    ) -> None:
        """Make a consumer that is not connected yet.

        Args:
            name: How the connection is called in the management console.
            plain: As `RETRIEVER_AMQP_PLAIN`.
        """
        self._url = url
        self._name = name
        self._subscribers = [
            Subscriber(each, renew_seconds=renew_seconds, plain=plain) for each in subscriptions
        ]

    @property
    def is_consuming(self) -> bool:
        """Whether the broker is known to know the consumer of every queue, but for those that are held."""
        return all(subscriber.is_well for subscriber in self._subscribers)

    def hold(self, queues: Collection[str]) -> None:
        """Consume none of these queues, and all others, from now until the next call.

        Deliveries in hand can still be settled; what has not been handed on goes back to its queue.
        """
        for subscriber in self._subscribers:
            subscriber.hold(is_held=subscriber.queue in queues)

    async def run(self) -> None:
        """Consume until cancelled, then close the connection: what was not settled is requeued."""
        await keep_connected(self._url, name=self._name, use=self._consume)

    async def stop_taking(self) -> None:
        """Take no more deliveries; those in hand can still be settled."""
        for subscriber in self._subscribers:
            await subscriber.stop_taking()

    async def flush(self) -> None:
        """Return once the broker has read everything sent so far, acks above all.

        A quorum queue may ignore an ack that comes right before the close of its channel
        (rabbitmq-server issue 10327); an answered request in between rules that out.
        """
        for subscriber in self._subscribers:
            await subscriber.flush()

    async def _consume(self, connection: AbstractConnection) -> None:
        async with asyncio.TaskGroup() as group:
            for subscriber in self._subscribers:
                group.create_task(subscriber.run(connection))
