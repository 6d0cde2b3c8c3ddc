"""Looking at queues again and again: how deep they are, and what somebody deleted is declared again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed

from shared.broker.connection import (
    close_channel,
    connected,
    keep_connected,
    open_channel,
    throw_away_channel,
)
from shared.broker.topology import QueueDepth, declare_topology, depth_of, queues

_LOOK_SECONDS = 30.0

logger = logging.getLogger(__name__)

Look = Callable[[], Awaitable[Sequence[QueueDepth]]]


async def keep_looking(
    url: str, *, name: str, kinds: Iterable[str], use: Callable[[Look], Awaitable[None]]
) -> None:
    """Call `use` with a way to look at all queues, and again with each new connection, until cancelled.

    A look declares every exchange, queue and binding, which changes nothing where they are, and returns the
    depths of the queues. `use` runs until cancelled, which it is when the connection is lost, and lets
    through what a look raises.
    """
    chosen = tuple(kinds)

    async def use_connection(connection: AbstractConnection) -> None:
        await use(partial(_look, connection, chosen))

    await keep_connected(url, name=name, use=use_connection)


async def keep_counting(
    url: str,
    *,
    name: str,
    wanted: Callable[[], Sequence[str]],
    tell: Callable[[Mapping[str, int]], None],
    every_seconds: float,
) -> None:
    """Tell how many messages of some queues are ready, again and again until cancelled; nothing is declared.

    Args:
        name: Of the connection.
        wanted: Says which queues to look at next. One that is missing is told of as if nobody had looked.
        tell: Gets what was seen.
        every_seconds: The pause between two looks.
    """

    async def use_connection(connection: AbstractConnection) -> None:
        channel = await open_channel(connection)
        while True:
            try:
                tell(await _ready_messages(channel, wanted()))
            except ChannelNotFoundEntity:
                # It took its channel with it. The queue watch declares it again.
                channel = await open_channel(connection)
            await asyncio.sleep(every_seconds)

    await keep_connected(url, name=name, use=use_connection)


async def _ready_messages(channel: AbstractChannel, names: Iterable[str]) -> dict[str, int]:
    async with asyncio.timeout(_LOOK_SECONDS):
        return {name: depth_of(await channel.declare_queue(name, passive=True)).ready for name in names}


async def _look(connection: AbstractConnection, kinds: Sequence[str]) -> list[QueueDepth]:
    """Return the depths of all queues; where something cannot be declared, of those that are there."""
    async with asyncio.timeout(_LOOK_SECONDS):
        try:
            # A throw-away channel: a declaration that does not match closes the one it was made on.
            async with throw_away_channel(connection) as channel:
                return await declare_topology(channel, kinds)
        except ChannelPreconditionFailed as error:
            logger.warning("topology_differs", extra={"error": str(error)[:300]})
        return await _count(connection, kinds)


async def _count(connection: AbstractConnection, kinds: Iterable[str]) -> list[QueueDepth]:
    depths: list[QueueDepth] = []
    channel = await open_channel(connection)
    for spec in queues(kinds):
        try:
            depths.append(depth_of(await channel.declare_queue(spec.name, passive=True)))
        except ChannelNotFoundEntity:
            # A missing queue takes its channel with it.
            channel = await open_channel(connection)
    await close_channel(channel)
    return depths


async def find_faults(url: str, *, name: str, kinds: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return which queues are missing, and what the broker says of each that has other arguments than ours.

    Declares no queue that is not there.

    Raises:
        NotConnected: no host answered in time, or took us.
        TimeoutError: the broker took us, and answers no more.
    """
    missing, different = [], []
    async with connected(url, name=name) as connection, asyncio.timeout(_LOOK_SECONDS):
        for spec in queues(kinds):
            # What is not as it is asked for takes its channel with it.
            async with throw_away_channel(connection) as channel:
                try:
                    await channel.declare_queue(spec.name, passive=True)
                    await channel.declare_queue(spec.name, durable=True, arguments=spec.all_arguments)
                except ChannelNotFoundEntity:
                    missing.append(spec.name)
                except ChannelPreconditionFailed as error:
                    different.append(f"{spec.name}: {error}")
    return missing, different
