"""Tests of the proxy of the fault suite: each way of hurting a link does what it says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.proxy import Proxy


@asynccontextmanager
async def echo_through_proxy() -> AsyncIterator[Proxy]:
    """Yield a proxy in front of a server that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(100):
            writer.write(chunk)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Proxy(target_port=server.sockets[0].getsockname()[1]).listening() as proxy:
        yield proxy


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Streams]:
    """Yield a connection through the proxy, reset afterwards."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def say(streams: Streams) -> bytes:
    """Send a byte and return what comes back; nothing when the connection is reset."""
    reader, writer = streams
    try:
        writer.write(b"x")
        await writer.drain()
        return await reader.read(1)
    except ConnectionError:
        return b""


async def test_an_unhurt_link_carries_both_ways() -> None:
    async with echo_through_proxy() as proxy, connected(proxy) as streams:
        assert await say(streams) == b"x"


async def test_a_cut_link_resets_old_and_new_connections_until_it_is_mended() -> None:
    async with echo_through_proxy() as proxy, connected(proxy) as old:
        assert await say(old) == b"x"

        proxy.cut()
        assert await say(old) == b""
        async with connected(proxy) as new:
            assert await say(new) == b""

        proxy.mend()
        async with connected(proxy) as newer:
            assert await say(newer) == b"x"


async def test_a_half_open_link_says_nothing_and_is_reset_when_it_is_mended() -> None:
    async with echo_through_proxy() as proxy, connected(proxy) as old:
        assert await say(old) == b"x"

        proxy.half_open()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await say(old)

        proxy.mend()
        assert await say(old) == b""
        async with connected(proxy) as new:
            assert await say(new) == b"x"


async def test_a_link_that_is_held_upward_still_carries_what_the_server_says() -> None:
    async with echo_through_proxy() as proxy, connected(proxy) as (reader, writer):
        writer.write(b"x")
        assert await reader.read(1) == b"x"

        proxy.hold_upward()
        writer.write(b"y")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read(1)


async def test_a_slow_link_takes_its_time_each_way() -> None:
    async with echo_through_proxy() as proxy, connected(proxy) as streams:
        proxy.slow(0.1)
        started_at = asyncio.get_running_loop().time()

        assert await say(streams) == b"x"

        assert asyncio.get_running_loop().time() - started_at >= 0.2
