"""Connections that come back: a fresh one after each loss, never a half-restored one.

aio-pika's robust connection restores what it remembers, loops for ever on a declaration that no longer
matches, and leaves consumers behind when their queue was deleted. Here the user of a connection sets it up
from the start after each loss, so a connection that is up is set up completely.
"""

import asyncio
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import cast

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from aiormq.channel import Channel
from yarl import URL

from shared.broker.addresses import split_hosts
from shared.broker.refusals import NotConnected, reason_of
from shared.repeated_warning import RepeatedWarning
from shared.tls import tls_context

# What aio-pika and aiormq raise when the broker is away or goes away.
CONNECTION_ERRORS = (AMQPError, ChannelInvalidStateError, OSError, TimeoutError)
# aiormq raises exactly these types, no subclasses, when it does not know why a connection ended.
_TEARDOWN_ERRORS = frozenset({Exception, RuntimeError, StopAsyncIteration})

# A heartbeat in the URL wins. aiormq takes a peer for dead after a silence of 3 times this and 3 s more.
_HEARTBEAT_SECONDS = 10
_CONNECT_TIMEOUT_SECONDS = 10.0
# Limit for each of several hosts: a stopped machine takes connections and says nothing.
_HOST_TIMEOUT_SECONDS = 5.0
_CLOSE_TIMEOUT_SECONDS = 5.0
REQUEST_SECONDS = 10.0
"""Limit for a request to the broker, which answers in milliseconds.

A broker with an alarm on reads nothing from a connection that publishes, and so answers nothing for hours.
"""
_FIRST_BACKOFF_SECONDS = 0.2
_TLS_SCHEME = "amqps"
_MAX_BACKOFF_SECONDS = 5.0
# A connection that was of use for so long is well: what ends it is news, and the next pause is short again.
_WELL_SECONDS = 5.0

logger = logging.getLogger(__name__)


@asynccontextmanager
async def connected(url: str, *, name: str) -> AsyncIterator[AbstractConnection]:
    """Yield a connection to the first host of the URL that answers, and close it within a time limit.

    The hosts are tried in a random order, so that the clients of a cluster spread over its nodes and do not
    all begin with a host that hangs.

    Args:
        name: How the connection is called in the management console.

    Raises:
        NotConnected: no host answered in time, or took us; it says why the last one did not.
    """
    connection = await _connect(url, name=name)
    try:
        yield connection
    finally:
        await _close(connection)


async def keep_connected(
    url: str,
    *,
    name: str,
    use: Callable[[AbstractConnection], Awaitable[None]],
    note_attempt: Callable[[bool, str | None], None] = lambda *_: None,
) -> None:
    """Call `use` with a fresh connection, and again after each loss, until cancelled.

    `use` sets up what it needs and runs until it is cancelled, which happens when the connection is lost.
    While the broker is away, or `use` raises one of its errors, a jittered pause comes before the next
    connection. It grows until a connection has been of use for some seconds.

    Args:
        name: How the connection is called in the management console.
        note_attempt: Called with whether a broker answered the last attempt to connect, and with why there
            is no connection of use now, if there is none.
    """
    backoff_seconds, warning = _FIRST_BACKOFF_SECONDS, RepeatedWarning(logger)
    while True:
        is_connected, began_at = False, time.monotonic()
        try:
            async with connected(url, name=name) as connection:
                is_connected, began_at = True, time.monotonic()
                note_attempt(True, None)
                with teardown_means_lost():
                    loss = await _use_until_lost(connection, use)
            event, words = "broker_connection_lost", words_of(loss) if loss else None
        except CONNECTION_ERRORS as error:
            event, words = "broker_unavailable", words_of(error)
            note_attempt(is_connected, words)
        if is_connected and time.monotonic() - began_at >= _WELL_SECONDS:
            backoff_seconds, warning = _FIRST_BACKOFF_SECONDS, RepeatedWarning(logger)
        warning.tell(event, {"connection": name, **({"error": words} if words else {})})
        await _pause(backoff_seconds * (0.5 + random.random() / 2))
        backoff_seconds = min(backoff_seconds * 2, _MAX_BACKOFF_SECONDS)


@contextmanager
def teardown_means_lost() -> Iterator[None]:
    """Let a call to aio-pika fail as on a lost connection when aiormq tears down what it waits for.

    aiormq raises the loss, if it knows of one, at whoever waits for a connection or channel that ends; else a
    bare Exception, a RuntimeError, what ended its reader, or a CancelledError. Nobody has cancelled us then;
    let through, it would end a task in silence, and a TaskGroup would not notice.

    The other way round, aiormq takes our own cancellation for such an end if both come at once, and then its
    `close` returns as if nothing had been. Somebody waits for the end of our task, for ever.

    Raises:
        CancelledError: we were cancelled meanwhile, whatever became of the call.
        ChannelInvalidStateError: it was torn down; what had been sent may have arrived.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except asyncio.CancelledError as error:
        if task is not None and task.cancelling():
            raise
        raise ChannelInvalidStateError("the connection was torn down") from error
    except Exception as error:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError from error
        if type(error) in _TEARDOWN_ERRORS:
            raise ChannelInvalidStateError("the connection was torn down") from error
        raise
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


async def open_channel(connection: AbstractConnection) -> AbstractChannel:
    """Return a new channel for consuming and looking.

    Raises:
        ChannelInvalidStateError: the connection has just closed, and nobody has told yet.
        TimeoutError: the broker did not answer.
    """
    with teardown_means_lost():
        async with asyncio.timeout(REQUEST_SECONDS):
            return await connection.channel(publisher_confirms=False)


async def open_publishing_channel(connection: AbstractConnection) -> AbstractChannel:
    """Return a new channel on which each publish waits for its confirm, and raises what comes back.

    Raises:
        ChannelInvalidStateError: the connection has just closed, and nobody has told yet.
        TimeoutError: the broker did not answer.
    """
    with teardown_means_lost():
        async with asyncio.timeout(REQUEST_SECONDS):
            return await connection.channel(publisher_confirms=True, on_return_raises=True)


async def close_channel(channel: AbstractChannel) -> None:
    """Close a channel within a time limit; one that is lost, or does not answer, ends with its connection."""
    try:
        with teardown_means_lost():
            async with asyncio.timeout(_CLOSE_TIMEOUT_SECONDS):
                await channel.close()
    except CONNECTION_ERRORS as error:
        logger.debug("channel_close_failed", extra={"error": words_of(error)})


@asynccontextmanager
async def throw_away_channel(connection: AbstractConnection) -> AsyncIterator[AbstractChannel]:
    """Yield a channel that is closed at the end, whatever becomes of it inside."""
    channel = await open_channel(connection)
    try:
        yield channel
    finally:
        await close_channel(channel)


async def underlay_of(channel: AbstractChannel) -> Channel:
    """Return the channel of aiormq below one of aio-pika, whose abstract class does not know all we need."""
    return cast("Channel", await channel.get_underlay_channel())


async def _connect(url: str, *, name: str) -> AbstractConnection:
    addresses = list(split_hosts(url))
    random.shuffle(addresses)
    timeout_seconds = _HOST_TIMEOUT_SECONDS if len(addresses) > 1 else _CONNECT_TIMEOUT_SECONDS
    for address in addresses[:-1]:
        try:
            return await _connect_to(address, name=name, timeout_seconds=timeout_seconds)
        except CONNECTION_ERRORS as error:
            facts = {"connection": name, "host": URL(address).host, "error": words_of(error)}
            logger.info("broker_host_passed_over", extra=facts)
    return await _connect_to(addresses[-1], name=name, timeout_seconds=timeout_seconds)


async def _connect_to(address: str, *, name: str, timeout_seconds: float) -> AbstractConnection:
    asked = URL(address)
    # The default heartbeat of 60 s leaves a silent peer unnoticed for three minutes.
    query = {"heartbeat": str(_HEARTBEAT_SECONDS), "name": name, **dict(asked.query)}
    try:
        with teardown_means_lost():
            async with asyncio.timeout(timeout_seconds):
                return await _opened(asked.with_query(query), await _tls_to(address))
    except NotConnected:
        raise
    except CONNECTION_ERRORS as error:
        raise NotConnected(reason_of(error, asked, timeout_seconds=timeout_seconds)) from error


async def _opened(url: URL, context: ssl.SSLContext | None) -> AbstractConnection:
    connection = aio_pika.Connection(url, ssl_context=context)
    try:
        await connection.connect()
    except BaseException:
        # One that is thrown away unclosed closes itself when it is collected, in whichever thread that is; in
        # one without a loop it cannot, and Python complains of what was never awaited.
        await connection.close()
        raise
    return connection


async def _tls_to(address: str) -> ssl.SSLContext | None:
    if URL(address).scheme != _TLS_SCHEME:
        return None
    # Read for each connection, so that nothing has to be restarted when certificates are renewed.
    try:
        return await asyncio.to_thread(tls_context, address)
    except ValueError as error:
        raise NotConnected(str(error)) from error


async def _use_until_lost(
    connection: AbstractConnection, use: Callable[[AbstractConnection], Awaitable[None]]
) -> BaseException | None:
    """Return why the connection was lost, as far as the library knows."""
    lost, reasons = asyncio.Event(), list[BaseException]()

    def note_loss(_: object, reason: BaseException | None) -> None:
        if reason is not None:
            reasons.append(reason)
        lost.set()

    connection.close_callbacks.add(note_loss)

    async def watch(using: asyncio.Task[None]) -> None:
        await lost.wait()
        using.cancel()

    using = asyncio.ensure_future(use(connection))
    watching = asyncio.create_task(watch(using))
    try:
        await asyncio.wait({using})
    finally:
        watching.cancel()
        using.cancel()
        await asyncio.gather(watching, using, return_exceptions=True)
    if not using.cancelled() and (error := using.exception()):
        raise error
    return reasons[0] if reasons else None


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def _close(connection: AbstractConnection) -> None:
    # A blocked or dead peer would hold the close for minutes; dropping the socket requeues all the same.
    try:
        with teardown_means_lost():
            async with asyncio.timeout(_CLOSE_TIMEOUT_SECONDS):
                await connection.close()
    except CONNECTION_ERRORS as error:
        logger.debug("broker_close_failed", extra={"error": words_of(error)})


def words_of(error: BaseException) -> str:
    """Return what one of CONNECTION_ERRORS says, for a log line or an error of ours."""
    return (str(error) if isinstance(error, NotConnected) else f"{type(error).__name__}: {error}")[:300]
