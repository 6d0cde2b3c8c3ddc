"""How many messages queues hold and how many consumers they have, asked without touching them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity

from shared.broker.connection import keep_connected, open_channel

_LOOK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Messages that are ready to be delivered, and consumers."""

    name: str
    ready: int
    consumers: int


Look = Callable[[], Awaitable[Sequence[QueueDepth]]]


async def keep_looking(
    url: str, *, name: str, queues: Sequence[str], use: Callable[[Look], Awaitable[None]]
) -> None:
    """Call `use` with a way to look at queues, and again with each new connection, until cancelled.

    A look leaves out queues that are not there. `use` runs until cancelled, which it is when the connection
    is lost, and lets through what a look raises.
    """

    async def use_connection(connection: AbstractConnection) -> None:
        await use(partial(_look, connection, queues))

    await keep_connected(url, name=name, use=use_connection)


async def _look(connection: AbstractConnection, queues: Iterable[str]) -> list[QueueDepth]:
    depths: list[QueueDepth] = []
    async with asyncio.timeout(_LOOK_SECONDS):
        channel = await open_channel(connection)
        for name in queues:
            try:
                depths.append(await _depth(channel, name))
            except ChannelNotFoundEntity:
                # A missing queue takes its channel with it.
                channel = await open_channel(connection)
        await channel.close()
    return depths


async def _depth(channel: AbstractChannel, name: str) -> QueueDepth:
    declared = (await channel.declare_queue(name, passive=True)).declaration_result
    return QueueDepth(name, declared.message_count or 0, declared.consumer_count or 0)
