"""A delivered message: from the intake, which hands it on under a limit, to the ack that settles it."""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from aiormq.channel import Channel
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from shared.broker.connection import CONNECTION_ERRORS, REQUEST_SECONDS, teardown_means_lost
from shared.broker.fast.frames import mentions
from shared.broker.topology import is_work_queue
from shared.errors import DeliveryLost

# Set by the broker on messages of quorum queues; copies do not carry it.
_COUNT_HEADER = "x-delivery-count"
_DEATHS_HEADER = "x-death"
# Acks are sent this far apart at the least: those that come meanwhile go together, and a process that dies
# meanwhile repeats that much more. An ack that comes after a pause goes at once.
_GATHER_SECONDS = 0.001

logger = logging.getLogger(__name__)


class Incoming(NamedTuple):
    """A message as it came: delivered to a consumer, or returned to its publisher, then with the tag 0."""

    tag: int
    is_redelivered: bool
    exchange: str
    routing_key: str
    header: ContentHeader
    body: bytes


class Intake:
    """Hands deliveries on, never more than `limit` at once over all channels of a subscription.

    The prefetch of a channel is the same limit. But after a hold or a renewal, deliveries of the channel
    before may still be in hand when the next channel begins: what is above the limit then waits here.
    """

    def __init__(self, limit: int, take: Callable[["Delivery"], None]) -> None:
        """Make an open intake that has seen nothing yet."""
        self._limit = limit
        self._take = take
        self._in_hand = 0
        self._in_hand_by_channel: Counter[Settling] = Counter()
        self._waiting: deque[tuple[Settling, Incoming]] = deque()
        self._is_open = True
        self._is_giving_back = False
        self._returning: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()
        self._heard_at = time.monotonic()

    @property
    def quiet_seconds(self) -> float:
        """How long the broker has been silent although it could deliver; 0 while the intake is full."""
        return 0.0 if self._is_full else time.monotonic() - self._heard_at

    @property
    def in_hand(self) -> int:
        """How many deliveries are handed on and not settled."""
        return self._in_hand

    def hear(self) -> None:
        """Note that the broker has just shown that it knows the consumer."""
        self._heard_at = time.monotonic()

    def open(self) -> None:
        """Hand on what comes from now on."""
        self._is_open, self._is_giving_back = True, False

    def shut(self) -> None:
        """Hand on nothing more; what comes is kept until `give_back`."""
        self._is_open = False

    async def give_back(self) -> None:
        """Requeue what was not handed on, and what still comes. Call it when the consumer is cancelled.

        Before that, the broker would deliver it to the same consumer at once; and until RabbitMQ 4.3 every
        requeue counts towards the delivery limit.
        """
        self._is_giving_back = True
        waiting, self._waiting = list(self._waiting), deque()
        for channel, message in waiting:
            await _requeue(channel, message)

    def forget(self) -> None:
        """Drop what was not handed on: its channel is gone, and the broker delivers it again."""
        self._is_open = False
        self._waiting.clear()

    def receive(self, channel: "Settling", message: Incoming) -> None:
        """Take a message that came on a channel."""
        self.hear()
        if self._is_giving_back:
            task = asyncio.create_task(_requeue(channel, message))
            self._returning.add(task)
            task.add_done_callback(self._returning.discard)
            return
        self._waiting.append((channel, message))
        self._hand_on()

    async def wait_settled(self, channel: "Settling") -> None:
        """Return when nothing that came on the channel is in hand."""
        while self._in_hand_by_channel[channel]:
            self._settled.clear()
            await self._settled.wait()

    @property
    def _is_full(self) -> bool:
        return self._in_hand >= self._limit

    def _hand_on(self) -> None:
        while self._is_open and self._waiting and not self._is_full:
            channel, message = self._waiting.popleft()
            self._in_hand += 1
            self._in_hand_by_channel[channel] += 1
            self._take(Delivery(message, channel, partial(self._on_settled, channel)))

    def _on_settled(self, channel: "Settling") -> None:
        if self._is_full:
            # The broker can deliver again from now on.
            self.hear()
        self._in_hand -= 1
        self._in_hand_by_channel[channel] -= 1
        if not self._in_hand_by_channel[channel]:
            del self._in_hand_by_channel[channel]
        self._settled.set()
        self._hand_on()


async def _requeue(channel: "Settling", message: Incoming) -> None:
    delivery = Delivery(message, channel, lambda: None)
    try:
        await delivery.requeue()
    except DeliveryLost:
        logger.debug("delivery_lost", extra={"job_id": delivery.correlation_id})


class Delivery:
    """One delivered message; settle it exactly once, by one of the methods."""

    __slots__ = ("_channel", "_message", "_on_settled", "body")

    def __init__(self, message: Incoming, channel: "Settling", on_settled: Callable[[], None]) -> None:
        """Wrap a message, which stays bound to the channel it came on."""
        self._message = message
        self._channel = channel
        self._on_settled = on_settled
        self.body: bytes = message.body

    @property
    def exchange(self) -> str:
        """The exchange it was published to."""
        return self._message.exchange

    @property
    def routing_key(self) -> str:
        """The routing key it was published with."""
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
    def user_id(self) -> str | None:
        """The user who published it, if it says so: the broker takes no other name than that of the login."""
        return self._properties.user_id or None

    @property
    def headers(self) -> Mapping[str, object]:
        """What the publisher and the broker noted on it."""
        return self._properties.headers or {}

    @property
    def is_redelivered(self) -> bool:
        """Whether this very message may have been delivered before; one that was published anew was not."""
        return self._message.is_redelivered

    @property
    def is_lost(self) -> bool:
        """Whether its channel is gone, so that the broker delivers the message again."""
        return self._channel.aiormq.is_closed

    @property
    def returns(self) -> int:
        """How often the broker took the message back from consumers that died with it, lost or refused it."""
        if not self._message.is_redelivered:
            return 0
        count = self.headers.get(_COUNT_HEADER)
        return count if isinstance(count, int) else 0

    @property
    def was_dead(self) -> bool:
        """Whether the broker had taken it out of a work queue for good, so that somebody has put it back.

        What comes back from a delay, or from a publisher's own queue, has died elsewhere.
        """
        # Few messages have the header, and it costs to decode properties.
        if not mentions(self._message.header, _DEATHS_HEADER):
            return False
        deaths = self.headers.get(_DEATHS_HEADER)
        return isinstance(deaths, list) and any(map(_died_at_work, deaths))

    def ack(self) -> None:
        """Tell the broker within milliseconds that the message is dealt with.

        If the channel is gone by then, the broker delivers the message again. That raises nothing: every
        consumer has to expect it anyway.
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
                async with asyncio.timeout(REQUEST_SECONDS):
                    await sending
        except CONNECTION_ERRORS as error:
            raise DeliveryLost("the channel closed before the message was settled") from error
        else:
            # Only now: a multiple ack that overtook this frame would settle its message too.
            self._channel.acks.settled(self._tag)
        finally:
            # Only now: whoever waits for the last delivery may close the channel.
            self._on_settled()


def _died_at_work(death: object) -> bool:
    match death:
        case {"queue": str(name)}:
            return is_work_queue(name)
    return False


@dataclass(frozen=True, slots=True, eq=False)
class Settling:
    """How messages of one channel are settled; `aiormq` is the channel."""

    aiormq: Channel
    acks: "AckGatherer"


class AckGatherer:
    """Acknowledges the deliveries of one channel with few frames.

    An ack is what an event loop and a broker pay most for at high rates. One that names a tag and all before
    it (`multiple`) costs a quorum queue hardly more than one that names a tag alone. So one frame acks the
    lowest tags as far as they are finished, and the finished tags above them get a frame each.

    The broker closes a channel on which a tag is settled twice. So `settled` tells of a tag that was settled
    otherwise, once that was sent, and no multiple ack names such a tag.
    """

    def __init__(self, send: Callable[[int, bool], Awaitable[None]]) -> None:
        """Make one for a new channel; `send` acks a tag, and with True also all before it."""
        self._send = send
        # The lowest tag that is not settled, and the tags above it that are.
        self._lowest = 1
        self._settled: set[int] = set()
        self._finished: set[int] = set()
        self._waiting: list[Callable[[], None]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._sent_at = 0.0

    def ack(self, tag: int, on_sent: Callable[[], None]) -> None:
        """Acknowledge a tag, together with others of the same milliseconds.

        Args:
            on_sent: Called when the ack was sent, or cannot be: then the broker delivers the message again.
        """
        self._finished.add(tag)
        self._waiting.append(on_sent)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush_soon())

    def settled(self, tag: int) -> None:
        """Note that a tag was settled otherwise; call it once that was sent, not before."""
        self._settled.add(tag)

    async def wait_sent(self) -> None:
        """Return when every ack so far was sent, or cannot be."""
        while self._flushing is not None:
            await asyncio.wait({self._flushing})

    async def _flush_soon(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(self._sent_at + _GATHER_SECONDS - loop.time(), 0.0))
        try:
            while self._finished:
                self._sent_at = loop.time()
                await self._flush_told()
        finally:
            self._flushing = None

    async def _flush_told(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            with teardown_means_lost():
                await self._flush()
        except CONNECTION_ERRORS as error:
            logger.info("acks_lost", extra={"deliveries": len(waiting), "error": repr(error)[:300]})
        finally:
            for on_sent in waiting:
                on_sent()

    async def _flush(self) -> None:
        highest = self._pass_finished()
        # Acks above an unfinished tag are not held back: a worker that dies would repeat all their jobs.
        apart = sorted(self._finished)
        self._settled |= self._finished
        self._finished = set()
        if highest is not None:
            await self._send(highest, True)
        for tag in apart:
            await self._send(tag, False)

    def _pass_finished(self) -> int | None:
        """Pass all tags that are settled or finished; return the highest finished one."""
        highest = None
        while self._lowest in self._settled or self._lowest in self._finished:
            if self._lowest in self._finished:
                self._finished.remove(self._lowest)
                highest = self._lowest
            self._settled.discard(self._lowest)
            self._lowest += 1
        return highest


def gather_acks(channel: Channel) -> AckGatherer:
    """Return a gatherer that acknowledges the deliveries of a new channel of aiormq."""

    async def send(tag: int, multiple: bool) -> None:
        # No wait until the socket has taken it: the next answered request on the channel shows that.
        await channel.basic_ack(tag, multiple=multiple, wait=False)

    return AckGatherer(send)
