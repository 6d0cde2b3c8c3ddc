"""A patched connection keeps nothing of channels that are closed, whoever closed them."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity

from shared.broker.connection import connected, open_channel
from tests.support.waiting import eventually


async def close_ourselves(channel: AbstractChannel) -> None:
    await channel.close()


async def let_the_broker_close(channel: AbstractChannel) -> None:
    with pytest.raises(ChannelNotFoundEntity):
        await channel.declare_queue("nowhere", passive=True)


def waiting_for_the_end_of(connection: AbstractConnection) -> int:
    assert connection.transport is not None
    # Nothing public tells; aiormq is pinned.
    return len(connection.transport.connection._closing._callbacks or ())  # type: ignore[attr-defined]


@pytest.mark.parametrize("close", [close_ourselves, let_the_broker_close])
async def test_a_closed_channel_leaves_nothing_at_its_connection(
    vhost_url: str, close: Callable[[AbstractChannel], Awaitable[None]]
) -> None:
    async with asyncio.timeout(30), connected(vhost_url, name="test") as connection:
        before = waiting_for_the_end_of(connection)
        for _ in range(20):
            channel = await open_channel(connection)
            assert waiting_for_the_end_of(connection) > before
            await close(channel)
            assert channel.is_closed

        async def is_as_before() -> bool:
            return waiting_for_the_end_of(connection) == before

        await eventually(is_as_before)


async def test_a_channel_is_told_of_the_end_of_its_connection(vhost_url: str) -> None:
    told = asyncio.Event()
    async with asyncio.timeout(30), connected(vhost_url, name="test") as connection:
        channel = await open_channel(connection)
        channel.close_callbacks.add(lambda *_: told.set())
        await connection.close()
        await told.wait()

    assert channel.is_closed


async def test_a_channel_is_told_of_its_own_end_once(vhost_url: str) -> None:
    told = 0

    def count(*_: object) -> None:
        nonlocal told
        told += 1

    async with asyncio.timeout(30), connected(vhost_url, name="test") as connection:
        channel = await open_channel(connection)
        channel.close_callbacks.add(count)
        await let_the_broker_close(channel)
        await asyncio.sleep(0)
        await connection.close()

    assert told == 1
