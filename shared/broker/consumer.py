"""Consuming queues under prefetch limits, and coming back after every kind of loss."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue

from shared.broker.connection import CONNECTION_ERRORS, keep_connected
from shared.broker.delivery import Delivery

_RESUBSCRIBE_SECONDS = 1.0
# A quorum queue that is deleted and declared again at once leaves its consumers deaf: the broker
# never cancels them (seen on 3.10.8). So a consumer that has heard nothing for this long and
# has nothing in hand is subscribed anew, on a new channel, which takes milliseconds.
_RENEW_SECONDS = 30.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A queue to consume and who takes its deliveries; `take` must not block or raise."""

    queue: str
    prefetch: int
    take: Callable[[Delivery], None]


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
    ) -> None:
        """Make a consumer that is not connected yet; `name` is shown in the management console."""
        self._url = url
        self._name = name
        self._subscriptions = subscriptions
        self._renew_seconds = renew_seconds
        self._consuming: dict[str, tuple[AbstractQueue, str]] = {}
        self._is_stopping = False

    @property
    def is_consuming(self) -> bool:
        """Whether every queue is being consumed."""
        return len(self._consuming) == len(self._subscriptions)

    async def run(self) -> None:
        """Consume until cancelled, then close the connection: what was not settled is requeued."""
        await keep_connected(self._url, name=self._name, use=self._consume)

    async def stop_taking(self) -> None:
        """Take no more deliveries; those in hand can still be settled."""
        self._is_stopping = True
        for queue, tag in list(self._consuming.values()):
            try:
                await queue.cancel(tag, timeout=_RESUBSCRIBE_SECONDS)
            except CONNECTION_ERRORS as error:
                logger.debug("consumer_cancel_failed", extra={"queue": queue.name, "error": repr(error)})

    async def flush(self) -> None:
        """Return once the broker has read everything sent so far, acks above all.

        A quorum queue may ignore an ack that comes right before the close of its channel
        (rabbitmq-server issue 10327); an answered request in between rules that out.
        """
        for queue, _ in list(self._consuming.values()):
            try:
                await queue.declare(timeout=_RESUBSCRIBE_SECONDS)
            except CONNECTION_ERRORS as error:
                logger.debug("flush_failed", extra={"queue": queue.name, "error": repr(error)})

    async def _consume(self, connection: AbstractConnection) -> None:
        async with asyncio.TaskGroup() as group:
            for subscription in self._subscriptions:
                group.create_task(self._keep_subscribed(connection, subscription))

    async def _keep_subscribed(self, connection: AbstractConnection, subscription: Subscription) -> None:
        while True:
            try:
                if await self._subscribe(connection, subscription) is _Ended.QUIET:
                    continue
            except CONNECTION_ERRORS as error:
                # Most often the queue is not declared yet, or was deleted: it comes back with the ledger.
                facts = {"queue": subscription.queue, "error": f"{type(error).__name__}: {error}"[:300]}
                logger.warning("subscription_failed", extra=facts)
            await asyncio.sleep(_RESUBSCRIBE_SECONDS * (0.5 + random.random() / 2))

    async def _subscribe(self, connection: AbstractConnection, subscription: Subscription) -> "_Ended":
        channel = await connection.channel(publisher_confirms=False)
        changed = asyncio.Event()
        channel.close_callbacks.add(lambda *_: changed.set())
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: changed.set())
        await channel.set_qos(prefetch_count=subscription.prefetch)
        heard = _Heard()
        # After a basic.cancel (queue deleted, leader moved, consumer timeout) the channel lives on,
        # and so do its unsettled deliveries: consume again on the same channel.
        while not channel.is_closed and not self._is_stopping:
            changed.clear()
            if await self._consume_until_changed(channel, subscription, changed, heard) is _Ended.QUIET:
                if heard.in_hand:
                    continue  # A delivery came at the last moment.
                # The channel, too: it may know the queue by what was deleted, and keep new consumers deaf.
                await channel.close()
                return _Ended.QUIET
            facts = {"queue": subscription.queue, "is_channel_closed": channel.is_closed}
            logger.warning("consumer_lost", extra=facts)
        await changed.wait()
        return _Ended.LOST

    async def _consume_until_changed(
        self, channel: AbstractChannel, subscription: Subscription, changed: asyncio.Event, heard: "_Heard"
    ) -> "_Ended":
        async def take(message: AbstractIncomingMessage) -> None:
            heard.delivered()
            subscription.take(Delivery(message, heard.settled))

        queue = await channel.declare_queue(subscription.queue, passive=True)
        tag = await queue.consume(take)
        self._consuming[subscription.queue] = (queue, tag)
        logger.debug("consuming", extra={"queue": subscription.queue, "prefetch": subscription.prefetch})
        try:
            ended = await self._wait_until_changed_or_quiet(changed, heard)
        finally:
            del self._consuming[subscription.queue]
        if ended is _Ended.QUIET:
            await queue.cancel(tag)
        return ended

    async def _wait_until_changed_or_quiet(self, changed: asyncio.Event, heard: "_Heard") -> "_Ended":
        while True:
            deliveries_before = heard.deliveries
            try:
                async with asyncio.timeout(self._renew_seconds):
                    await changed.wait()
            except TimeoutError:
                # Not while anything is in hand: its delivery would be lost with the channel.
                if heard.deliveries == deliveries_before and not heard.in_hand and not self._is_stopping:
                    return _Ended.QUIET
            else:
                return _Ended.LOST


class _Ended(Enum):
    """Why a subscription ended: nothing was heard for a while, or the broker took it away."""

    QUIET = auto()
    LOST = auto()


class _Heard:
    """How many deliveries came on a channel, and how many of them are not settled."""

    def __init__(self) -> None:
        self.deliveries = 0
        self.in_hand = 0

    def delivered(self) -> None:
        self.deliveries += 1
        self.in_hand += 1

    def settled(self) -> None:
        self.in_hand -= 1
