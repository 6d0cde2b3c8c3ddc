"""Taking chosen messages out of `jobs.parked`, the queue that nobody consumes."""

from collections.abc import Callable

import aio_pika
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from yarl import URL

from shared.broker.connection import CONNECTION_ERRORS
from shared.broker.topology import PARKED_QUEUE
from shared.errors import BrokerUnavailable


async def take_out_parked(url: str, *, is_wanted: Callable[[bytes], bool], wanted: int) -> int:
    """Remove up to `wanted` messages that `is_wanted` says yes to; return how many.

    Reads from the head, once around: up to as many messages as the queue held at the start. Others
    are put back behind, confirmed before their old copy is acked, so a crash can double a parked
    message and never lose one.

    Args:
        is_wanted: Gets a message's body.

    Raises:
        BrokerUnavailable: the broker went away; what was removed so far stays removed.
    """
    try:
        connection = await aio_pika.connect(URL(url).update_query(name="retriever ledger parked"), timeout=10)
        async with connection, connection.channel(on_return_raises=True) as channel:
            return await _sweep(channel, is_wanted=is_wanted, wanted=wanted)
    except CONNECTION_ERRORS as error:
        raise BrokerUnavailable(f"sweep of {PARKED_QUEUE} broken off: {type(error).__name__}") from error


async def _sweep(channel: AbstractChannel, *, is_wanted: Callable[[bytes], bool], wanted: int) -> int:
    queue = await channel.declare_queue(PARKED_QUEUE, passive=True)
    removed = 0
    for _ in range(queue.declaration_result.message_count or 0):
        message = await queue.get(fail=False, timeout=10)
        if message is None:
            break
        if is_wanted(message.body):
            removed += 1
        else:
            await channel.default_exchange.publish(_copy(message), PARKED_QUEUE, mandatory=True, timeout=10)
        await message.ack()
        if removed == wanted:
            break
    return removed


def _copy(message: AbstractIncomingMessage) -> Message:
    return Message(
        message.body,
        headers=message.headers,
        content_type=message.content_type,
        correlation_id=message.correlation_id,
        message_id=message.message_id,
        type=message.type,
        app_id=message.app_id,
        delivery_mode=DeliveryMode.PERSISTENT,
    )
