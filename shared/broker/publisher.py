"""Publishing with confirms: a message counts as sent only when the broker has it on disk."""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from aio_pika import DeliveryMode
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import DeliveryError, PublishError
from aiormq.channel import Channel
from pamqp.commands import Basic

from shared.broker.connection import (
    CONNECTION_ERRORS,
    keep_connected,
    open_channel,
    open_publishing_channel,
    teardown_means_lost,
)
from shared.errors import BrokerUnavailable, MessageRefused, MessageUnroutable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish, persistent; it comes back when no queue is bound for it, if it is mandatory.

    Attributes:
        message_id: Only of a message that is not mandatory; others get a new one each time.
        type: `job` or `report`, the AMQP type property.
        job_id: Goes into `correlation_id`; empty when the message cannot be read.
    """

    exchange: str
    routing_key: str
    body: bytes
    type: str
    job_id: str = ""
    headers: Mapping[str, str | int] = field(default_factory=dict)
    content_type: str = "application/json"
    message_id: str | None = None

    @property
    def is_mandatory(self) -> bool:
        """Whether somebody must be bound for it."""
        return self.message_id is None


class Publisher:
    """Publishes on one confirming channel of its own connection; `run` keeps it open.

    A connection that publishes is blocked by the broker's memory and disk alarms, so it must not be
    the one that consumes: acks would hang with it.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        timeout_seconds: float,
        prepare: Callable[[AbstractChannel], Awaitable[None]] | None = None,
    ) -> None:
        """Make a publisher that is not connected yet.

        Args:
            name: How the connection is called in the management console.
            timeout_seconds: Limit of one publish, waiting for the connection included.
            prepare: Called with a throw-away channel on each new connection, to declare the topology or
                to make sure of it; while it fails, nothing is published.
        """
        self._url = url
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._prepare = prepare
        self._ready = asyncio.Event()
        self._broken = asyncio.Event()
        self._channel: Channel | None = None
        self._is_reachable = False
        self._in_flight = 0
        self._was_refused = False
        self.connections = 0
        """How many connections there have been so far, the present one included."""

    @property
    def is_ready(self) -> bool:
        """Whether a message could be published now."""
        return self._ready.is_set()

    @property
    def is_reachable(self) -> bool:
        """Whether a broker answered the last attempt to connect, be the rest as it may."""
        return self._is_reachable

    async def wait_ready(self) -> None:
        """Return once a message could be published."""
        if self._channel is not None and self._channel.is_closed:
            # The channel knows that it is closed a moment before its callbacks run.
            self._ready.clear()
        await self._ready.wait()

    async def run(self) -> None:
        """Keep the channel open until cancelled."""
        await keep_connected(
            self._url, name=self._name, use=self._keep_channel, note_attempt=self._note_attempt
        )

    def reset(self) -> None:
        """Open a new channel and prepare it again, as after an unroutable message."""
        self._broken.set()

    async def publish(self, message: Outgoing) -> None:
        """Publish one message and wait for the broker's confirm.

        Every call makes a new message id: aiormq matches returned messages to publishes by it, and
        of two equal ones in flight it would confirm one that was returned.

        Raises:
            MessageUnroutable: no queue is bound for the routing key; nothing was stored.
            MessageRefused: a queue rejected it.
            BrokerUnavailable: no confirm came; the message may have been stored all the same.
        """
        try:
            with teardown_means_lost(), self._flying():
                async with asyncio.timeout(self._timeout_seconds):
                    await self.wait_ready()
                    await self._publish(message)
        except PublishError as error:
            raise MessageUnroutable(f"{message.exchange} has no queue for {message.routing_key}") from error
        except DeliveryError as error:
            self._was_refused = True
            raise MessageRefused(f"a queue of {message.exchange} refused {message.routing_key}") from error
        except CONNECTION_ERRORS as error:
            raise BrokerUnavailable(f"no confirm from the broker: {type(error).__name__}") from error

    @contextmanager
    def _flying(self) -> Iterator[None]:
        # On 3.10 a queue that has room again still refuses the channel that it refused when it was full. So a
        # new one is taken, when nothing is on its way: a confirm would be lost with the old one.
        if self._was_refused and not self._in_flight:
            self._was_refused = False
            self._ready.clear()
            self.reset()
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    def _note_attempt(self, is_reachable: bool) -> None:
        self._is_reachable = is_reachable

    async def _keep_channel(self, connection: AbstractConnection) -> None:
        self.connections += 1
        while True:
            await self._prepare_topology(connection)
            channel = await open_publishing_channel(connection)
            self._broken = asyncio.Event()
            channel.close_callbacks.add(lambda *_, broken=self._broken: broken.set())
            # The abstract one does not know of `wait`.
            self._channel = cast("Channel", await channel.get_underlay_channel())
            self._ready.set()
            try:
                await self._broken.wait()
            finally:
                self._ready.clear()
            if not channel.is_closed:
                await channel.close()

    async def _prepare_topology(self, connection: AbstractConnection) -> None:
        if self._prepare is None:
            return
        # A throw-away channel: a declaration that does not match closes the channel it was made on.
        async with await open_channel(connection) as channel:
            await self._prepare(channel)

    async def _publish(self, message: Outgoing) -> None:
        if self._channel is None:
            raise BrokerUnavailable("no channel is open")
        # Straight on aiormq's channel: much of the time of a publish goes into what aio-pika puts around it.
        # And nobody waits until the socket has taken it, because its confirm is waited for.
        await self._channel.basic_publish(
            message.body,
            exchange=message.exchange,
            routing_key=message.routing_key,
            properties=_properties(message),
            mandatory=message.is_mandatory,
            wait=False,
        )


def _properties(message: Outgoing) -> Basic.Properties:
    return Basic.Properties(
        delivery_mode=DeliveryMode.PERSISTENT,
        content_type=message.content_type,
        message_id=message.message_id or uuid.uuid4().hex,
        correlation_id=message.job_id or None,
        message_type=message.type,
        app_id="retriever",
        headers=dict(message.headers),
    )
