"""Servers that never come to an end: each is left in bounded time, and none is believed."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp.streams import StreamReader

from consumer.handlers.check import check
from consumer.handlers.fetch import fetch
from shared.kinds.check import CheckArgs, CheckMethod
from shared.kinds.fetch import FetchArgs
from shared.outcomes import Failed, Succeeded
from tests.support.http_servers import client_that_reaches_loopback, raw_server

LIMIT_SECONDS = 1.0
GROWTH_BYTES = 64 * 1_048_576
OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def endless(begin: bytes, again: bytes, *, pause_seconds: float = 0.0) -> AsyncIterator[str]:
    """Serve one beginning, and then the same octets again and again, until the client goes."""
    writing: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        writing.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(begin)
            while True:
                writer.write(again)
                await writer.drain()
                await asyncio.sleep(pause_seconds)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # The client went, or the test is over.
        finally:
            writing.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for task in writing:
            task.cancel()
        await asyncio.gather(*writing, return_exceptions=True)


@pytest.mark.parametrize(
    ("begin", "again", "pause_seconds", "reason"),
    [
        (OK, b"X-Again: and again\r\n", 0.0, "header_too_large"),
        (OK + b"X-Long: ", b"x" * 1_000, 0.0, "header_too_large"),
        (b"HTTP/1.1 ", b"2", 0.0, "protocol_error"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 0.0, "header_too_large"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.0, "header_too_large"),
        (OK, b"X: y\r\n", 0.05, "timeout"),
        (b"H", b"", 0.05, "timeout"),
    ],
    ids=["fields", "one field", "status", "hints", "continues", "dripping fields", "silence"],
)
async def test_an_answer_that_never_begins_is_left_in_time_and_memory(
    begin: bytes, again: bytes, pause_seconds: float, reason: str
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()

    async with (
        endless(begin, again, pause_seconds=pause_seconds) as url,
        client_that_reaches_loopback() as client,
    ):
        outcome = await check(
            CheckArgs(url=url, method=CheckMethod.GET, timeout_seconds=LIMIT_SECONDS), client
        )

    # Never a status that the server did not send.
    assert outcome.result is not None
    assert (outcome.result["reason"], outcome.result["status"]) == (reason, None)
    assert time.monotonic() - started < LIMIT_SECONDS + 4
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1_024 < GROWTH_BYTES


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (OK + b"\r\n", b"x" * 65_536),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 65_536),
        (
            OK + b"Transfer-Encoding: chunked\r\n\r\n",
            b"1;x=yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\nx\r\n" * 1_000,
        ),
        (OK + b"Content-Length: 999999999999\r\n\r\n", b"x" * 65_536),
    ],
    ids=["no length", "chunks", "an extension", "extensions", "a huge length"],
)
async def test_a_body_without_end_is_counted_and_refused(begin: bytes, again: bytes) -> None:
    async with endless(begin, again) as url, client_that_reaches_loopback() as client:
        outcome = await fetch(FetchArgs(url=url, max_bytes=1_000_000, timeout_seconds=20), client)

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.transient) == ("body_too_large", False)


async def test_chunks_of_one_byte_are_taken_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One read took 43,000 of them, 50 ms in which nobody else had a turn."""
    read = StreamReader._read_nowait
    sizes, turns = [], 0

    def noted(self: StreamReader, n: int) -> bytes:
        data = read(self, n)
        sizes.append(len(data))
        return data

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    monkeypatch.setattr(StreamReader, "_read_nowait", noted)
    chunks = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n"
    async with raw_server(chunks) as server, client_that_reaches_loopback() as client:
        counting = asyncio.create_task(count())
        outcome = await fetch(FetchArgs(url=server.url), client)
        counting.cancel()

    assert isinstance(outcome, Succeeded)
    assert outcome.result["body_bytes"] == sum(sizes) == 60_000
    assert turns > 60_000 / 4_000
    # A piece of 16 KiB that came with the head has 2,700.
    assert max(sizes) < 4_000
