"""What `fetch` keeps of what servers send."""

import asyncio
import base64
import gzip
import os
from collections.abc import AsyncIterator

import brotli
import pytest

from consumer.handlers.fetch import fetch
from consumer.http.client import Client
from deploy.local.target_site import TargetSite, open_target
from shared.bodies import MAX_BODY_BYTES
from shared.compression import MAX_STORED_BYTES
from shared.kinds.fetch import FetchArgs, FetchMethod, FetchResult
from shared.outcomes import Failed, Outcome, Succeeded
from tests.support.http_servers import STAY_SILENT, client_that_reaches_loopback, raw_server


@pytest.fixture
async def target() -> AsyncIterator[TargetSite]:
    async with open_target() as site:
        yield site


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with client_that_reaches_loopback() as opened:
        yield opened


def seen(outcome: Outcome) -> FetchResult:
    assert outcome.result is not None
    return FetchResult.model_validate(outcome.result)


def answer_of(body: bytes, *, headers: str = "", length: int | None = None) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body) if length is None else length}\r\n{headers}\r\n"
    return head.encode("latin-1") + body


async def test_a_page_is_kept_as_text(target: TargetSite, client: Client) -> None:
    outcome = await fetch(FetchArgs(url=f"{target.url}/moved"), client)

    assert isinstance(outcome, Succeeded)
    result = seen(outcome)
    assert result.body == "<html><title>home</title><p>All is well.</p></html>"
    assert (result.status, result.body_bytes, len(result.hops)) == (200, 51, 4)
    assert result.content_type == "text/html; charset=utf-8"
    assert result.final_url == f"{target.url}/ok"


async def test_data_is_picked_out_instead_of_the_body(target: TargetSite, client: Client) -> None:
    url = f"{target.url}/api/items?page=3"

    result = seen(await fetch(FetchArgs(url=url, extract="{total: total, ids: items[].id}"), client))

    assert result.data == {"total": 60, "ids": list(range(51, 61))}
    assert (result.body, result.body_base64) == (None, None)
    assert result.body_bytes > 0


@pytest.mark.parametrize(
    ("path", "expression", "reason"),
    [("/ok", "@", "not_json"), ("/api/items", "sum(items)", "extract_failed")],
)
async def test_what_cannot_be_picked_out_is_permanent(
    target: TargetSite, client: Client, path: str, expression: str, reason: str
) -> None:
    outcome = await fetch(FetchArgs(url=target.url + path, extract=expression), client)

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.transient) == (reason, False)
    assert seen(outcome).status == 200


@pytest.mark.parametrize(
    ("path", "reason", "transient"),
    [("/missing", "http_404", False), ("/broken", "http_500", True), ("/loop", "redirect_loop", False)],
)
async def test_anything_but_success_is_a_failure_that_shows_what_was_seen(
    target: TargetSite, client: Client, path: str, reason: str, transient: bool
) -> None:
    outcome = await fetch(FetchArgs(url=target.url + path), client)

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.transient) == (reason, transient)
    assert len(seen(outcome).hops) == 1
    assert seen(outcome).body is None


async def test_a_limited_host_says_how_long_to_wait(target: TargetSite, client: Client) -> None:
    outcome = await fetch(FetchArgs(url=f"{target.url}/limited/a"), client)

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.retry_after_seconds) == ("http_429", 2)


async def test_a_page_that_is_mended_is_fetched(target: TargetSite, client: Client) -> None:
    args = FetchArgs(url=f"{target.url}/mendable/a")

    before = await fetch(args, client)
    await fetch(FetchArgs(url=f"{target.url}/control/mend/a", method=FetchMethod.POST), client)
    after = await fetch(args, client)

    assert isinstance(before, Failed)
    assert isinstance(after, Succeeded)


async def test_a_body_that_is_not_text_is_kept_as_base64(client: Client) -> None:
    body = bytes(range(256))
    async with raw_server(answer_of(body, headers="Content-Type: image/png\r\n")) as server:
        result = seen(await fetch(FetchArgs(url=server.url), client))

    assert result.body is None
    assert base64.b64decode(result.body_base64 or "") == body


async def test_a_body_is_decoded_by_its_charset(client: Client) -> None:
    async with raw_server(
        answer_of(b"caf\xe9", headers='Content-Type: text/plain; charset="latin1"\r\n')
    ) as server:
        assert seen(await fetch(FetchArgs(url=server.url), client)).body == "café"


async def test_a_content_type_that_is_not_text_does_no_harm(client: Client) -> None:
    async with raw_server(answer_of(b"ok", headers="Content-Type: text/\xff; charset=\xfe\r\n")) as server:
        result = seen(await fetch(FetchArgs(url=server.url), client))

    assert (result.body, result.content_type) == ("ok", "text/?; charset=?")


async def test_a_compressed_body_is_expanded(client: Client) -> None:
    body = gzip.compress(b"All is well. " * 1_000)
    async with raw_server(answer_of(body, headers="Content-Encoding: gzip\r\n")) as server:
        result = seen(await fetch(FetchArgs(url=server.url), client))

    assert (result.body_bytes, result.body) == (13_000, "All is well. " * 1_000)


@pytest.mark.parametrize("size", [999, 1_000, 1_001])
@pytest.mark.parametrize("compressed", [False, True])
async def test_the_limit_counts_the_expanded_body_to_the_byte(
    client: Client, size: int, compressed: bool
) -> None:
    body = b"x" * size
    answer = (
        answer_of(gzip.compress(body), headers="Content-Encoding: gzip\r\n")
        if compressed
        else answer_of(body)
    )
    async with raw_server(answer) as server:
        outcome = await fetch(FetchArgs(url=server.url, max_bytes=1_000), client)

    assert isinstance(outcome, Succeeded) is (size <= 1_000)
    if isinstance(outcome, Failed):
        assert (outcome.reason, outcome.transient) == ("body_too_large", False)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(b"\0" * 30_000_000)),
        ("gzip", gzip.compress(b"") * 100_000),
        ("br", brotli.compress(bytes(30_000_000), quality=1)),
    ],
    ids=["gzip", "empty members", "brotli"],
)
async def test_a_bomb_is_stopped(client: Client, coding: str, body: bytes) -> None:
    async with raw_server(answer_of(body, headers=f"Content-Encoding: {coding}\r\n")) as server:
        outcome = await fetch(FetchArgs(url=server.url), client)

    assert isinstance(outcome, Failed)
    assert outcome.reason == "body_too_large"


@pytest.mark.parametrize(
    "answer",
    [
        answer_of(b"half", length=8),
        answer_of(gzip.compress(b"All is well." * 100)[:-10], headers="Content-Encoding: gzip\r\n"),
        answer_of(brotli.compress(b"All is well." * 100)[:-3], headers="Content-Encoding: br\r\n"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
    ids=["content-length", "gzip", "brotli", "chunked"],
)
async def test_a_body_that_is_cut_short_is_noticed(client: Client, answer: bytes) -> None:
    async with raw_server(answer) as server:
        outcome = await fetch(FetchArgs(url=server.url), client)

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.transient) == ("body_truncated", True)
    assert seen(outcome).status == 200


@pytest.mark.parametrize(
    ("body", "coding", "reason"),
    [
        (b"no gzip", "gzip", "body_corrupt"),
        (b"no brotli, none at all", "br", "body_corrupt"),
        (b"(\xb5/\xfd", "zstd", "unsupported_encoding"),
    ],
)
async def test_a_body_that_cannot_be_expanded_is_told(
    client: Client, body: bytes, coding: str, reason: str
) -> None:
    async with raw_server(answer_of(body, headers=f"Content-Encoding: {coding}\r\n")) as server:
        outcome = await fetch(FetchArgs(url=server.url), client)

    assert isinstance(outcome, Failed)
    assert outcome.reason == reason


async def test_a_body_that_drips_is_bounded_by_the_time_limit(target: TargetSite, client: Client) -> None:
    outcome = await fetch(
        FetchArgs(url=f"{target.url}/drip?seconds=60&bytes=1000", timeout_seconds=0.4), client
    )

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.transient) == ("timeout", True)
    assert seen(outcome).status == 200


async def test_a_first_request_that_fails_has_no_result() -> None:
    async with client_that_reaches_loopback(names={}) as client:
        outcome = await fetch(FetchArgs(url="http://nowhere.example/"), client)

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.transient, outcome.result) == ("dns_no_such_name", False, None)


async def test_a_cancelled_fetch_lets_the_cancellation_through(client: Client) -> None:
    async with raw_server(answer_of(b"half", length=8), then=STAY_SILENT) as server:
        running = asyncio.create_task(fetch(FetchArgs(url=server.url), client))
        async with asyncio.timeout(10):
            while not server.heads:
                await asyncio.sleep(0)
        running.cancel()

        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_large_body_is_kept_beside_its_result(client: Client) -> None:
    body = "grüße ".encode("latin-1") * 100_000
    headers = "Content-Type: text/plain; charset=latin-1\r\n"
    async with raw_server(answer_of(body, headers=headers)) as server:
        outcome = await fetch(FetchArgs(url=server.url), client)

    assert isinstance(outcome, Succeeded) and outcome.body is not None
    assert gzip.decompress(outcome.body.content) == body
    assert (outcome.body.content_type, outcome.body.charset) == (
        "text/plain; charset=latin-1",
        "windows-1252",
    )
    assert (seen(outcome).body_stored, seen(outcome).body) == (True, None)


async def test_a_body_that_cannot_be_compressed_enough_is_refused(client: Client) -> None:
    async with raw_server(answer_of(os.urandom(MAX_STORED_BYTES + 1))) as server:
        outcome = await fetch(FetchArgs(url=server.url, max_bytes=MAX_BODY_BYTES), client)

    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.transient) == ("body_too_large", False)
    assert "6,000,000" in outcome.explanation


@pytest.mark.parametrize("etag", ["", "x" * 1_001, "caf\xe9"])
async def test_a_validator_that_cannot_be_sent_back_is_left_out(client: Client, etag: str) -> None:
    async with raw_server(answer_of(b"ok", headers=f"ETag: {etag}\r\n")) as server:
        assert seen(await fetch(FetchArgs(url=server.url), client)).etag is None
