"""A message to publish, and a channel that publishes it: the contract, and the stock channel of aiormq."""

import asyncio
import re
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from aio_pika import DeliveryMode
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import ChannelPreconditionFailed, DeliveryError, PublishError
from aiormq.channel import Channel
from pamqp.commands import Basic

from shared.broker.connection import CONNECTION_ERRORS, teardown_means_lost
from shared.errors import BrokerUnavailable, MessageRefused, MessageTooLarge, MessageUnroutable

APP_ID = "retriever"

# "message size 20000000 is larger than configured max size 16777216"
_SIZES = re.compile(r"message size \d+\b.*\bmax size (\d+)")
_NO_HEADERS: Mapping[str, str | int] = MappingProxyType({})


class Outgoing(NamedTuple):
    """A persistent message to publish; a mandatory one comes back when no queue is bound for it.

    Attributes:
        message_id: Makes the message not mandatory; None gives it a new id each time it is published.
        type: `job` or `report`, the AMQP type property.
        job_id: Goes into `correlation_id`; empty when the message cannot be read.
    """

    exchange: str
    routing_key: str
    body: bytes
    type: str
    job_id: str = ""
    headers: Mapping[str, str | int] = _NO_HEADERS
    content_type: str = "application/json"
    message_id: str | None = None

    @property
    def is_mandatory(self) -> bool:
        """Whether a queue must be bound for it."""
        return self.message_id is None


class ConfirmingChannel(Protocol):
    """Publishes messages, and says what became of each."""

    channel: AbstractChannel

    @property
    def is_spent(self) -> bool:
        """Whether it should be replaced, now that nothing is on its way."""

    def send(self, message: Outgoing) -> asyncio.Future[None]:
        """Publish a message; the future is done when the broker has it on disk.

        It fails with `MessageUnroutable` when no queue is bound for the routing key, `MessageRefused` when a
        queue rejected it, and `BrokerUnavailable` when no confirm came: it may have been stored all the same.
        """

    def give_up(self, loss: object = None) -> None:
        """Fail everything on its way: no confirm will come. `loss` is why the channel closed, if known."""


class StockChannel:
    """Publishes through what aiormq documents: a task for each message, and aiormq's own accounting."""

    def __init__(self, channel: AbstractChannel, underlay: Channel, *, timeout_seconds: float) -> None:
        """Take over a new channel that confirms."""
        self.channel = channel
        self._underlay = underlay
        self._timeout_seconds = timeout_seconds
        self._was_refused = False
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def is_spent(self) -> bool:
        """Whether a queue has refused a message of it, and nothing is on its way; see `BatchedChannel`."""
        return self._was_refused and not self._sending

    def send(self, message: Outgoing) -> asyncio.Future[None]:
        """Publish a message."""
        task = asyncio.create_task(self._publish(message))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    def give_up(self, loss: object = None) -> None:
        """Do nothing: aiormq fails what is on its way."""

    async def _publish(self, message: Outgoing) -> None:
        # A new message id for every publish: aiormq matches returned messages by it, and of two equal ids
        # in flight it would confirm one that was returned.
        properties = properties_of(message, message.message_id or uuid.uuid4().hex)
        try:
            with teardown_means_lost():
                async with asyncio.timeout(self._timeout_seconds):
                    await self._underlay.basic_publish(
                        message.body,
                        exchange=message.exchange,
                        routing_key=message.routing_key,
                        properties=properties,
                        mandatory=message.is_mandatory,
                    )
        except PublishError as error:
            raise unroutable(message) from error
        except DeliveryError as error:
            self._was_refused = True
            raise refused(message) from error
        except CONNECTION_ERRORS as error:
            if too_large := blamed(message, error):
                raise too_large from error
            raise BrokerUnavailable(f"no confirm from the broker: {type(error).__name__}") from error


def properties_of(message: Outgoing, message_id: str) -> Basic.Properties:
    """Return the AMQP properties of a message."""
    return Basic.Properties(
        delivery_mode=DeliveryMode.PERSISTENT,
        content_type=message.content_type,
        message_id=message_id,
        correlation_id=message.job_id or None,
        message_type=message.type,
        app_id=APP_ID,
        headers=dict(message.headers),
    )


def unroutable(message: Outgoing) -> MessageUnroutable:
    """Return the error of a message that no queue is bound for."""
    return MessageUnroutable(f"{message.exchange} has no queue for {message.routing_key}")


def refused(message: Outgoing) -> MessageRefused:
    """Return the error of a message that a queue rejected."""
    return MessageRefused(f"a queue of {message.exchange} refused {message.routing_key}")


def taken_bytes(loss: object) -> int | None:
    """Return how large a message may be, if a channel was closed because one was larger: only that tells.

    The broker's words name both sizes (`rabbit_channel:check_msg_size`), on 3.10 and 4.3.
    """
    if not isinstance(loss, ChannelPreconditionFailed):
        return None
    said = _SIZES.search(str(loss))
    return int(said[1]) if said else None


def blamed(message: Outgoing, loss: object) -> MessageTooLarge | None:
    """Return the error of the one message for which the broker closed the channel; None for all others."""
    limit = taken_bytes(loss)
    return too_large(message, limit) if limit is not None and len(message.body) > limit else None


def too_large(message: Outgoing, limit_bytes: int) -> MessageTooLarge:
    """Return the error of a message that the broker will not take."""
    size = len(message.body)
    return MessageTooLarge(f"The message has {size} bytes, and the broker takes {limit_bytes} at most.")
