"""Consuming queues under prefetch limits, and coming back after every kind of loss."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from shared.broker.connection import (
    CONNECTION_ERRORS,
    REQUEST_SECONDS,
    keep_connected,
    open_channel,
    teardown_means_lost,
    underlay_of,
    words_of,
)
from shared.broker.delivery import Delivery, Incoming, Intake, Settling, gather_acks
from shared.broker.fast.frame_interceptor import FrameInterceptor
from shared.repeated_warning import RepeatedWarning

# A quorum queue that is deleted and declared again at once leaves its consumers deaf: the broker
# never cancels them (seen on 3.10.8). So a consumer that has heard nothing for this long, although
# it has room, is subscribed anew, on a new channel, which takes milliseconds.
_RENEW_SECONDS = 30.0
_RESUBSCRIBE_SECONDS = 1.0
# A message that left its queue just before the first answer arrives before the second, and in plain mode
# a moment later.
_LOOKS = 3

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A queue to consume and who takes its deliveries; `take` must not block or raise."""

    queue: str
    prefetch: int
    take: Callable[[Delivery], None]


class Subscriber:
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
        """Make a subscriber that is not connected yet.

        Args:
            name: How the connection is called in the management console.
            plain: Consume through aio-pika's own callbacks: `RETRIEVER_AMQP_PLAIN`.
        """
        self._url = url
        self._name = name
        self._consumers = [
            QueueConsumer(each, renew_seconds=renew_seconds, plain=plain) for each in subscriptions
        ]

    @property
    def is_consuming(self) -> bool:
        """Whether the broker is known to have a consumer of every queue that is not held."""
        return all(consumer.is_well for consumer in self._consumers)

    def hold(self, queues: Collection[str]) -> None:
        """Until the next call, consume none of these queues, and all others.

        Deliveries in hand can still be settled; messages not handed on yet go back to their queues.
        """
        for consumer in self._consumers:
            consumer.hold(is_held=consumer.queue in queues)

    async def is_empty(self) -> bool:
        """Return whether the broker has nothing for us, in any queue that is not held.

        False while that is not known: the broker is away, say, or a consumer is only just being made.
        """
        for _ in range(_LOOKS):
            for consumer in self._consumers:
                if not await consumer.is_empty():
                    return False
        return True

    async def run(self) -> None:
        """Consume until cancelled, then close the connection: the broker requeues what was not settled."""
        await keep_connected(self._url, name=self._name, use=self._consume)

    async def stop_taking(self) -> None:
        """Take no more deliveries; those in hand can still be settled."""
        for consumer in self._consumers:
            await consumer.stop_taking()

    async def flush(self) -> None:
        """Return once the broker has read everything sent so far, acks above all.

        A quorum queue may ignore an ack that comes right before the close of its channel
        (rabbitmq-server issue 10327); an answered request in between rules that out.
        """
        for consumer in self._consumers:
            await consumer.flush()

    async def _consume(self, connection: AbstractConnection) -> None:
        async with asyncio.TaskGroup() as group:
            for consumer in self._consumers:
                group.create_task(consumer.run(connection))


class QueueConsumer:
    """Consumes one queue, on a channel of its own, whenever it is not held."""

    def __init__(self, subscription: Subscription, *, renew_seconds: float, plain: bool) -> None:
        """Make a consumer that consumes nothing yet; `plain` as `RETRIEVER_AMQP_PLAIN`."""
        self._subscription = subscription
        self._renew_seconds = renew_seconds
        self._plain = plain
        self._consumption: _Consumption | None = None
        # The intake of a consumer that seems well; None as soon as the consumer is lost.
        self._intake: Intake | None = None
        # Channels from before a hold or a renewal that still have deliveries in hand.
        self._settling: set[_Consumption] = set()
        self._news = asyncio.Event()
        self._is_held = False
        self._is_stopping = False

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return self._subscription.queue

    @property
    def is_well(self) -> bool:
        """Whether the queue is held on purpose, or the broker is known to have its consumer.

        A recent answer or delivery proves that, and so does a full intake.
        """
        if self._is_held:
            return True
        return self._intake is not None and self._intake.quiet_seconds <= 2 * self._renew_seconds

    def hold(self, *, is_held: bool) -> None:
        """Consume no more, or again. Deliveries in hand can be settled either way."""
        self._is_held = is_held
        self._news.set()

    async def is_empty(self) -> bool:
        """Return whether the queue is held, or nothing of it is ready, in hand, or acked but not told."""
        if self._is_held:
            return True
        consumption = self._consumption
        if consumption is None or consumption.intake.in_hand or self._settling:
            return False
        try:
            with teardown_means_lost():
                # On the consumer's own channel, so that the answer comes after what was delivered before.
                declared = await consumption.queue.declare(timeout=REQUEST_SECONDS)
        except CONNECTION_ERRORS as error:
            logger.debug("look_failed", extra={"queue": self.queue, "error": words_of(error)})
            return False
        return not declared.message_count

    async def stop_taking(self) -> None:
        """Take no more deliveries, for good; those in hand can still be settled."""
        self._is_stopping = True
        if self._intake:
            self._intake.shut()
        try:
            if self._consumption:
                with teardown_means_lost():
                    await self._consumption.end(timeout_seconds=_RESUBSCRIBE_SECONDS)
        except CONNECTION_ERRORS as error:
            logger.debug("consumer_cancel_failed", extra={"queue": self.queue, "error": repr(error)})

    async def flush(self) -> None:
        """Return once the broker has read everything sent so far, acks above all."""
        for consumption in [*([self._consumption] if self._consumption else []), *self._settling]:
            try:
                with teardown_means_lost():
                    async with asyncio.timeout(REQUEST_SECONDS):
                        await consumption.channel.settling.acks.wait_sent()
                    await consumption.queue.declare(timeout=_RESUBSCRIBE_SECONDS)
            except CONNECTION_ERRORS as error:
                logger.debug("flush_failed", extra={"queue": self.queue, "error": repr(error)})

    async def run(self, connection: AbstractConnection) -> None:
        """Consume on this connection until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._keep_consuming(connection, group)
        finally:
            self._intake = None

    async def _keep_consuming(self, connection: AbstractConnection, group: asyncio.TaskGroup) -> None:
        """Subscribe again after each end; tasks of the group settle what was in hand by then."""
        intake, warning = self._new_intake(), RepeatedWarning(logger)
        while True:
            await self._wait_until_free()
            try:
                with teardown_means_lost():
                    ended = await self._subscribe(connection, intake)
            except CONNECTION_ERRORS as error:
                # Most often the queue is not declared yet, or was deleted: a ledger declares it.
                warning.tell("subscription_failed", {"queue": self.queue, "error": words_of(error)})
                ended = None
            if ended is not None:
                warning = RepeatedWarning(logger)
                group.create_task(self._close_when_settled(ended))
                continue
            intake.forget()
            intake, self._intake = self._new_intake(), None
            await asyncio.sleep(_RESUBSCRIBE_SECONDS * (0.5 + random.random() / 2))

    def _new_intake(self) -> Intake:
        return Intake(self._subscription.prefetch, self._subscription.take)

    async def _wait_until_free(self) -> None:
        while self._is_held or self._is_stopping:
            self._news.clear()
            await self._news.wait()

    async def _subscribe(self, connection: AbstractConnection, intake: Intake) -> "_Consumption | None":
        """Consume on a new channel; return the consumption that we ended, or None when the channel was lost.

        The channel is new each time: an old one may refer to a deleted queue, and keep new consumers deaf.
        """
        lost = asyncio.Event()
        async with asyncio.timeout(REQUEST_SECONDS):
            channel = await open_consuming(
                connection, intake, plain=self._plain, on_lost=lambda: self._tell(lost)
            )
            await channel.pika.set_qos(prefetch_count=self._subscription.prefetch)
        while True:
            # After a basic.cancel (queue deleted, leader moved, consumer timeout) the channel lives on,
            # and so do its unsettled deliveries: consume again on the same channel.
            lost.clear()
            consumption = await self._begin(channel, intake)
            if await self._consume_until_ended(consumption, lost):
                return consumption
            self._intake = None
            facts = {"queue": self.queue, "is_channel_closed": channel.is_closed}
            logger.warning("consumer_lost", extra=facts)
            if channel.is_closed:
                return None
            if self._is_stopping:
                return consumption

    def _tell(self, lost: asyncio.Event) -> None:
        lost.set()
        self._news.set()

    async def _begin(self, channel: "ConsumingChannel", intake: Intake) -> "_Consumption":
        async with asyncio.timeout(REQUEST_SECONDS):
            queue = await channel.pika.declare_queue(self.queue, passive=True)
            if not self._is_stopping:
                intake.open()
            tag = await channel.consume(queue)
        intake.hear()
        self._intake = intake
        logger.debug("consuming", extra={"queue": self.queue, "prefetch": self._subscription.prefetch})
        consumption = _Consumption(channel, queue, tag, intake)
        if self._is_stopping:
            # The order to stop came meanwhile: what was delivered since goes back.
            await consumption.end(timeout_seconds=_RESUBSCRIBE_SECONDS)
        return consumption

    async def _consume_until_ended(self, consumption: "_Consumption", lost: asyncio.Event) -> bool:
        """Return True when we cancelled the consumer, and False when it was lost."""
        self._consumption = consumption
        try:
            await self._wait_until_ended(consumption.intake, lost)
        finally:
            self._consumption = None
        if lost.is_set():
            return False
        await consumption.end(timeout_seconds=REQUEST_SECONDS)
        facts = {"queue": self.queue, "is_held": self._is_held, "in_hand": consumption.intake.in_hand}
        logger.debug("consumer_ended", extra=facts)
        return True

    async def _wait_until_ended(self, intake: Intake, lost: asyncio.Event) -> None:
        """Return when the consumer is lost or held, or heard nothing for long although it had room."""
        while not lost.is_set() and (not self._is_held or self._is_stopping):
            self._news.clear()
            rest_seconds = max(self._renew_seconds - intake.quiet_seconds, 0.0)
            try:
                async with asyncio.timeout(None if self._is_stopping else rest_seconds):
                    await self._news.wait()
            except TimeoutError:
                if intake.quiet_seconds >= self._renew_seconds and not self._is_stopping:
                    return

    async def _close_when_settled(self, consumption: "_Consumption") -> None:
        """Close the channel when its deliveries are settled: closed sooner, they would come again."""
        self._settling.add(consumption)
        try:
            await consumption.intake.wait_settled(consumption.channel.settling)
            with teardown_means_lost():
                async with asyncio.timeout(REQUEST_SECONDS):
                    # An answered request, so that the last ack is read before the channel closes.
                    await consumption.queue.declare()
                    await consumption.channel.pika.close()
        except CONNECTION_ERRORS as error:
            logger.debug("settling_channel_lost", extra={"queue": self.queue, "error": repr(error)})
        finally:
            self._settling.discard(consumption)


@dataclass(frozen=True, slots=True)
class _Consumption:
    """A queue consumed on a channel, under a tag, into an intake."""

    channel: "ConsumingChannel"
    queue: AbstractQueue
    tag: str
    intake: Intake

    async def end(self, *, timeout_seconds: float) -> None:
        """Cancel the consumer, then give back the messages that were not handed on."""
        self.intake.shut()
        async with asyncio.timeout(timeout_seconds):
            await self.queue.cancel(self.tag)
        await self.intake.give_back()


@dataclass(frozen=True, slots=True, eq=False)
class ConsumingChannel:
    """A channel for one consumer at a time, and how its deliveries are settled."""

    pika: AbstractChannel
    settling: Settling
    callback: Callable[[AbstractIncomingMessage], Awaitable[None]]

    @property
    def is_closed(self) -> bool:
        """Whether it was lost or closed."""
        return bool(self.pika.is_closed)

    async def consume(self, queue: AbstractQueue) -> str:
        """Let the queue deliver into the intake; return the consumer's tag."""
        return await queue.consume(self.callback)


async def open_consuming(
    connection: AbstractConnection, intake: Intake, *, plain: bool, on_lost: Callable[[], None]
) -> ConsumingChannel:
    """Return a new channel on which messages go into an intake.

    Args:
        plain: Take messages from aio-pika's callback, and not out of the frames.
        on_lost: Called when the consumer was lost, alone or with the channel.

    Raises:
        ChannelInvalidStateError, ...: the connection has just closed, and nobody has told yet.
    """
    channel = await open_channel(connection)
    channel.close_callbacks.add(lambda *_: on_lost())
    underlay = await underlay_of(channel)
    underlay.on_consumer_cancel_callbacks.add(lambda _: on_lost())
    settling = Settling(underlay, gather_acks(underlay))
    receive = partial(intake.receive, settling)
    if plain:
        return ConsumingChannel(channel, settling, partial(_receive_plainly, receive))
    FrameInterceptor(underlay, receive)
    return ConsumingChannel(channel, settling, _never)


async def _receive_plainly(receive: Callable[[Incoming], None], message: AbstractIncomingMessage) -> None:
    properties = Basic.Properties(
        headers=dict(message.headers), correlation_id=message.correlation_id, message_type=message.type
    )
    tag, again = message.delivery_tag or 0, bool(message.redelivered)
    exchange, routing_key = message.exchange or "", message.routing_key or ""
    receive(Incoming(tag, again, exchange, routing_key, ContentHeader(properties=properties), message.body))


async def _never(message: AbstractIncomingMessage) -> None:
    raise RuntimeError(f"a message came past the interceptor: {message.delivery_tag}")
