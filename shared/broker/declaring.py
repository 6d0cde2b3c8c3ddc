"""Declaring the topology again and again, so that what somebody deletes is soon back."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from aio_pika.abc import AbstractConnection

from shared.broker.connection import keep_connected, open_channel
from shared.broker.topology import declare_topology

_DECLARE_SECONDS = 30.0

Declare = Callable[[], Awaitable[None]]


async def keep_declaring(
    url: str, *, name: str, kinds: Iterable[str], use: Callable[[Declare], Awaitable[None]]
) -> None:
    """Call `use` with a way to declare every exchange, queue and binding, with each new connection anew.

    Declaring what is there changes nothing. `use` runs until cancelled, which it is when the connection is
    lost, and lets through what a declaration raises.
    """
    chosen = tuple(kinds)

    async def use_connection(connection: AbstractConnection) -> None:
        await use(partial(_declare, connection, chosen))

    await keep_connected(url, name=name, use=use_connection)


async def _declare(connection: AbstractConnection, kinds: Iterable[str]) -> None:
    async with asyncio.timeout(_DECLARE_SECONDS):
        # A throw-away channel: a declaration that does not match closes the one it was made on.
        async with await open_channel(connection) as channel:
            await declare_topology(channel, kinds)
