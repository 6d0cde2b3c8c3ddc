"""Walking `jobs.parked`, which has no consumer: chosen messages leave it, all others stay."""

import asyncio
import struct
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from pamqp.encode import field_table

from shared.broker.connection import (
    CONNECTION_ERRORS,
    connected,
    open_channel,
    open_publishing_channel,
    teardown_means_lost,
    words_of,
)
from shared.broker.topology import PARKED_QUEUE
from shared.errors import BrokerUnavailable
from shared.messages import REASON_HEADER

# Names the walk that put a copy back, so that no walk goes round twice.
WALK_HEADER = "x-retriever-walk"

# They say why a message is here, so they come first.
_NEEDED = frozenset({REASON_HEADER, "x-death"})
_ROUTING = frozenset({"CC", "BCC"})
# A header goes in one frame, which has 128 KiB at most.
_MAX_HEADER_BYTES = 65_536

_PAGE_MESSAGES = 200
_NAME = "retriever ledger parked"
_STEP_SECONDS = 10
# A queue that is not empty delivers within milliseconds.
_QUIET_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Choice:
    """The places on a page of the messages that leave; all others go back behind."""

    leaving: frozenset[int]
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Walk:
    """The result of a walk; it is `complete` when it saw every message that was there at its start."""

    seen: int
    removed: int
    complete: bool


async def walk_parked(url: str, *, choose: Callable[[Sequence[bytes]], Awaitable[Choice]]) -> Walk:
    """Read the queue once around, a page at a time, and remove the messages whose bodies `choose` picks.

    It reads from the head, as many messages as the queue held at the start, and puts the others back behind.
    Their copies are confirmed before the originals are acked, so a crash can double a parked message and
    never lose one. Only one walk may run at a time: two would meet each other's copies.

    Raises:
        BrokerUnavailable: the broker went away; what was removed so far stays removed.
    """
    try:
        with teardown_means_lost():
            async with connected(url, name=_NAME) as connection:
                async with asyncio.timeout(_STEP_SECONDS):
                    channel = await open_publishing_channel(connection)
                return await _walk(channel, choose)
    except CONNECTION_ERRORS as error:
        raise BrokerUnavailable(f"walk of {PARKED_QUEUE} broken off: {words_of(error)}") from error


async def count_parked(url: str) -> int:
    """Return how many messages the queue holds.

    Raises:
        BrokerUnavailable: the broker did not answer.
    """
    try:
        with teardown_means_lost():
            async with connected(url, name=_NAME) as connection, asyncio.timeout(_STEP_SECONDS):
                channel = await open_channel(connection)
                queue = await channel.declare_queue(PARKED_QUEUE, passive=True)
    except CONNECTION_ERRORS as error:
        raise BrokerUnavailable(f"{PARKED_QUEUE} not counted: {words_of(error)}") from error
    return queue.declaration_result.message_count or 0


async def _walk(channel: AbstractChannel, choose: Callable[[Sequence[bytes]], Awaitable[Choice]]) -> Walk:
    queue = await _declared(channel)
    length, walk_id = queue.declaration_result.message_count or 0, uuid.uuid4().hex
    waiting = await _consume(channel, queue)
    seen = removed = 0
    while seen < length:
        page = await _take_page(waiting, min(_PAGE_MESSAGES, length - seen), walk_id)
        if not page:
            break
        choice = await choose([message.body for message in page])
        kept = [message for place, message in enumerate(page) if place not in choice.leaving]
        # Every copy is confirmed before any message of the page is acked.
        await asyncio.gather(*(_put_back(channel, message, walk_id) for message in kept))
        async with asyncio.timeout(_STEP_SECONDS):
            await page[-1].ack(multiple=True)
        # An ack has no answer; the answer to the request behind it shows that the broker has read it.
        await _declared(channel)
        seen, removed = seen + len(page), removed + len(page) - len(kept)
        if choice.is_last:
            return Walk(seen, removed, complete=seen >= length)
    return Walk(seen, removed, complete=True)


async def _declared(channel: AbstractChannel) -> AbstractQueue:
    return await channel.declare_queue(PARKED_QUEUE, passive=True, timeout=_STEP_SECONDS)


async def _consume(
    channel: AbstractChannel, queue: AbstractQueue
) -> "asyncio.Queue[AbstractIncomingMessage]":
    """Return a queue of deliveries; those that no page takes go back when the channel closes.

    It consumes, because to a quorum queue every `basic.get` is a consumer of its own, and a page is acked one
    by one. On 3.10 some of those acks had not reached the queue when the channel closed, and messages that
    had left were back.
    """
    waiting: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    await channel.set_qos(prefetch_count=_PAGE_MESSAGES, timeout=_STEP_SECONDS)

    async def receive(message: AbstractIncomingMessage) -> None:
        waiting.put_nowait(message)

    await queue.consume(receive, timeout=_STEP_SECONDS)
    return waiting


async def _take_page(
    waiting: "asyncio.Queue[AbstractIncomingMessage]", wanted: int, walk_id: str
) -> list[AbstractIncomingMessage]:
    page: list[AbstractIncomingMessage] = []
    while len(page) < wanted:
        try:
            async with asyncio.timeout(_QUIET_SECONDS):
                message = await waiting.get()
        except TimeoutError:
            # Somebody else took messages out meanwhile.
            break
        if message.headers.get(WALK_HEADER) == walk_id:
            # Somebody did, and this is the first of our own copies.
            break
        page.append(message)
    return page


async def _put_back(channel: AbstractChannel, message: AbstractIncomingMessage, walk_id: str) -> None:
    await channel.default_exchange.publish(
        _copy(message, walk_id), PARKED_QUEUE, mandatory=True, timeout=_STEP_SECONDS
    )


def _copy(message: AbstractIncomingMessage, walk_id: str) -> Message:
    return Message(
        message.body,
        headers={**writable_headers(message.headers), WALK_HEADER: walk_id},
        content_type=message.content_type,
        correlation_id=message.correlation_id,
        # A new id: aiormq would confirm a returned message that has the id of another in flight.
        message_id=uuid.uuid4().hex,
        type=message.type,
        app_id=message.app_id,
        delivery_mode=DeliveryMode.PERSISTENT,
    )


def writable_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return those headers of a stranger's message with which its copy can be published.

    Some that can be read cannot be written again, and those of a copy must leave room in its frame for ours.
    `CC` and `BCC` are none: the broker would send each copy to the queues that they name, too.
    """
    kept: dict[str, Any] = {}
    room_bytes = _MAX_HEADER_BYTES
    for name in sorted(headers, key=lambda name: name not in _NEEDED):
        try:
            size_bytes = len(field_table({name: headers[name]}))
        except (TypeError, ValueError, OverflowError, RecursionError, struct.error):
            continue
        if size_bytes <= room_bytes and name not in _ROUTING:
            kept[name] = headers[name]
            room_bytes -= size_bytes
    return kept
