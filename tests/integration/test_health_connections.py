"""The health server of ledger and worker: connections that say nothing neither stay nor crowd out a probe."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge

from deploy.local.ports import free_port
from shared import health


@asynccontextmanager
async def silent_connection(port: int) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader
    finally:
        writer.close()


async def write_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


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
        silent = [await stack.enter_async_context(silent_connection(port)) for _ in range(500)]

        assert await is_alive(port)
        assert await silent[0].read() == b""


async def test_clients_that_never_read_hold_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONNECTION_SECONDS", 0.2)
    registry, port = CollectorRegistry(), free_port()
    # More than the system's buffers take.
    Gauge("large", "Large.", ["name"], registry=registry).labels("x" * 10_000_000)
    serving = health.serve_health(host="127.0.0.1", port=port, probes={}, registry=registry)
    async with serving, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_024)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readexactly(12)

        # The connection is gone, whatever is left to be read.
        with pytest.raises(ConnectionResetError):
            await write_for_ever(writer)
        writer.close()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"Host: localhost\r\n", 200),
        (b"Host: 127.0.0.1:9100\r\n", 200),
        (b"Host: worker-1.inside.example:9100\r\n", 200),
        (b"Host: evil.example\r\n", 421),
        (b"Host: evil.example:9100\r\nX-Forwarded-Host: localhost\r\n", 421),
        (b"", 400),
        (b"Host: localhost\r\nHost: evil.example\r\n", 400),
    ],
)
async def test_a_page_whose_name_leads_here_reads_no_metrics(fields: bytes, status: int) -> None:
    port = free_port()
    serving = health.serve_health(
        host="127.0.0.1",
        port=port,
        probes={},
        registry=CollectorRegistry(),
        allowed_hosts=("*.inside.example",),
    )
    async with serving, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\n" + fields + b"\r\n")
        answer = await reader.read()
        writer.close()

    assert int(answer.split()[1]) == status
