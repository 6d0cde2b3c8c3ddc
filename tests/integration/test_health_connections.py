"""The health server of ledger and worker: connections that say nothing neither stay nor crowd out a probe."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from prometheus_client import CollectorRegistry

from deploy.local.ports import free_port
from shared import health


@asynccontextmanager
async def silent_connection(port: int) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader
    finally:
        writer.close()


async def is_alive(port: int) -> bool:
    async with httpx.AsyncClient(timeout=10) as client:
        return (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == 200


async def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONNECTION_SECONDS", 0.1)
    port = free_port()
    serving = health.serve_health(host="127.0.0.1", port=port, probes={}, registry=CollectorRegistry())
    async with serving, silent_connection(port) as connection, asyncio.timeout(10):
        assert await connection.read() == b""
        assert await is_alive(port)


async def test_a_probe_is_answered_while_more_connections_than_may_be_say_nothing() -> None:
    port = free_port()
    serving = health.serve_health(host="127.0.0.1", port=port, probes={}, registry=CollectorRegistry())
    async with serving, AsyncExitStack() as stack, asyncio.timeout(20):
        silent = [await stack.enter_async_context(silent_connection(port)) for _ in range(200)]

        assert await is_alive(port)
        assert await silent[0].read() == b""
