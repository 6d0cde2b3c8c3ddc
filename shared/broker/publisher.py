"""Publishing with confirms: a message counts as sent only when the broker has it on disk."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from aio_pika.abc import AbstractChannel, AbstractConnection

from shared.broker.connection import (
    REQUEST_SECONDS,
    close_channel,
    keep_connected,
    open_channel,
    open_publishing_channel,
    teardown_means_lost,
    throw_away_channel,
    underlay_of,
)
from shared.broker.fast.batched_channel import BatchedChannel
from shared.broker.outgoing import ConfirmingChannel, Outgoing, StockChannel, taken_bytes, too_large
from shared.errors import BrokerUnavailable

# Limit for declaring or verifying the topology: some two hundred requests, which a cluster agrees on.
_PREPARE_SECONDS = 60.0
# For how long the largest size that the broker takes is believed over all connections.
_LIMITED_SECONDS = 60.0


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
        prepare: Callable[[AbstractChannel], Awaitable[object]] | None = None,
        plain: bool = False,
    ) -> None:
        """Make a publisher that is not connected yet.

        Args:
            name: How the connection is called in the management console.
            timeout_seconds: Limit for a connection to come up, and for a confirm.
            prepare: Called with a throw-away channel on each new connection, to declare or verify the
                topology; while it fails, nothing is published.
            plain: Publish on a stock channel: `RETRIEVER_AMQP_PLAIN`.
        """
        self._url = url
        self._name = name
        self._timeout_seconds = timeout_seconds
        self._prepare = prepare
        self._plain = plain
        self._ready = asyncio.Event()
        self._broken = asyncio.Event()
        self._sender: ConfirmingChannel | None = None
        # Known once the broker has closed a channel because of a larger message.
        self._most_bytes: int | None = None
        self._limited_at = -math.inf
        self._is_reachable = False
        self._reason: str | None = None
        self.connections = 0
        """How many connections there have been, the present one included."""

    @property
    def is_ready(self) -> bool:
        """Whether a message could be published now."""
        return self._ready.is_set()

    @property
    def is_reachable(self) -> bool:
        """Whether a broker answered the last attempt to connect."""
        return self._is_reachable

    @property
    def reason(self) -> str | None:
        """Why nothing can be published now, in a sentence; None where that is not known."""
        return None if self.is_ready else self._reason

    async def wait_ready(self) -> None:
        """Return once a message could be published."""
        sender = self._sender
        if sender is not None and self._ready.is_set():
            # The channel knows that it is closed a moment before its callbacks run.
            if sender.channel.is_closed:
                self._ready.clear()
            elif sender.is_spent:
                self.reset()
        await self._ready.wait()

    async def run(self) -> None:
        """Keep the channel open until cancelled."""
        await keep_connected(
            self._url, name=self._name, use=self._keep_channel, note_attempt=self._note_attempt
        )

    def reset(self) -> None:
        """Open a new channel and prepare it again, as after an unroutable message."""
        self._ready.clear()
        self._broken.set()

    async def publish(self, message: Outgoing) -> None:
        """Publish one message and wait for the broker's confirm.

        Raises:
            MessageUnroutable: no queue is bound for the routing key; nothing was stored.
            MessageRefused: a queue rejected it.
            MessageTooLarge: the broker takes no message of this size; publish it no more.
            BrokerUnavailable: no confirm came; the message may have been stored all the same.
        """
        if not self._can_send:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await self.wait_ready()
            except TimeoutError as error:
                why = self.reason or f"none came up within {self._timeout_seconds:g} s"
                raise BrokerUnavailable(f"no connection to the broker: {why}") from error
        await self.send(message)

    def begin(self, message: Outgoing) -> asyncio.Future[None]:
        """Publish one message as `publish` does, without a task where none is needed."""
        if self._can_send:
            return self.send(message)
        return asyncio.ensure_future(self.publish(message))

    @property
    def _can_send(self) -> bool:
        sender = self._sender
        return (
            sender is not None
            and self._ready.is_set()
            and not sender.is_spent
            and not sender.channel.is_closed
        )

    def send(self, message: Outgoing) -> asyncio.Future[None]:
        """Publish one message, if a channel is open; its confirm is the future's result.

        For many messages at once: it makes no task and waits for nothing. The caller awaits each future,
        which fails with what `publish` raises.

        Raises:
            BrokerUnavailable: there is no channel at the moment; `wait_ready` waits for one.
        """
        if self._sender is None or not self._ready.is_set():
            raise BrokerUnavailable("no channel is open")
        if self._most_bytes is not None and len(message.body) > self._most_bytes:
            failed = asyncio.get_running_loop().create_future()
            failed.set_exception(too_large(message, self._most_bytes))
            return failed
        return self._sender.send(message)

    def _note_attempt(self, is_reachable: bool, reason: str | None) -> None:
        self._is_reachable, self._reason = is_reachable, reason

    async def _keep_channel(self, connection: AbstractConnection) -> None:
        self.connections += 1
        if time.monotonic() - self._limited_at > _LIMITED_SECONDS:
            # Another broker, or the same one with other settings. Not at once: what others had on their way
            # when it closed the channel makes it close the connection, too.
            self._most_bytes = None
        while True:
            await self._prepare_topology(connection)
            sender = await open_confirming(
                connection, timeout_seconds=self._timeout_seconds, plain=self._plain
            )
            loss = _Loss()
            self._broken = loss.is_there
            sender.channel.close_callbacks.add(loss.note)
            self._sender = sender
            self._ready.set()
            try:
                await self._broken.wait()
            finally:
                self._ready.clear()
                sender.give_up(loss.reason)
            if (limit := taken_bytes(loss.reason)) is not None:
                self._most_bytes, self._limited_at = limit, time.monotonic()
            if not sender.channel.is_closed:
                await close_channel(sender.channel)

    async def _prepare_topology(self, connection: AbstractConnection) -> None:
        if self._prepare is None:
            return
        # A throw-away channel: a declaration that does not match closes the channel it was made on.
        async with asyncio.timeout(_PREPARE_SECONDS), throw_away_channel(connection) as channel:
            await self._prepare(channel)


class _Loss:
    """Whether a channel is lost, and why."""

    def __init__(self) -> None:
        self.is_there = asyncio.Event()
        self.reason: object = None

    def note(self, _: object, reason: object = None) -> None:
        self.reason = reason
        self.is_there.set()


async def open_confirming(
    connection: AbstractConnection, *, timeout_seconds: float, plain: bool
) -> ConfirmingChannel:
    """Return a new channel to publish on: a batched one, or the stock one.

    Args:
        timeout_seconds: Limit of each publish.

    Raises:
        ChannelInvalidStateError, ...: the connection has just closed, and nobody has told yet.
        TimeoutError: the broker did not answer.
    """
    with teardown_means_lost():
        if plain:
            channel = await open_publishing_channel(connection)
            return StockChannel(channel, await underlay_of(channel), timeout_seconds=timeout_seconds)
        # We turn on confirms ourselves: aiormq would count publishes that it has not made.
        channel = await open_channel(connection)
        underlay = await underlay_of(channel)
        async with asyncio.timeout(REQUEST_SECONDS):
            await underlay.confirm_delivery()
        return BatchedChannel(channel, underlay, timeout_seconds=timeout_seconds)
