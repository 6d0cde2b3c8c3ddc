"""Which answer counts when `check` asks HEAD and then GET, and when GET is asked at all."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from consumer.handlers.check import check
from consumer.http.client import Client
from consumer.politeness.host_limiters import HostLimiters
from shared.kinds.check import CheckArgs, Verdict
from shared.outcomes import Failed, Outcome
from tests.support.http_servers import RawServer, client_that_reaches_loopback, raw_server, self_signed_tls
from tests.support.recording_ledger import make_message

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
NOT_ALLOWED = b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n"
MISSING = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"


def redirect(location: str, more: str = "") -> bytes:
    return f"HTTP/1.1 301 Moved\r\nLocation: {location}\r\n{more}Content-Length: 0\r\n\r\n".encode()


def methods(server: RawServer) -> list[str]:
    return [head.split()[0] for head in server.heads]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with client_that_reaches_loopback(names={}) as opened:
        yield opened


async def verdict_of(client: Client, url: str) -> tuple[Verdict, str]:
    outcome: Outcome = await check(CheckArgs(url=url), client)
    assert outcome.result is not None
    return Verdict(outcome.result["verdict"]), outcome.result["reason"]


async def test_a_wait_that_a_redirect_asks_for_does_not_keep_get_from_having_the_last_word(
    client: Client,
) -> None:
    moved = redirect("/b", "Retry-After: 60\r\n")
    async with raw_server(moved, NOT_ALLOWED, moved, OK) as server:
        assert await verdict_of(client, server.url) == (Verdict.OK, "ok")

        assert methods(server) == ["HEAD", "HEAD", "GET", "GET"]


async def test_get_is_asked_when_head_leads_to_a_port_where_nobody_listens(
    client: Client, unused_port: int
) -> None:
    async with raw_server(redirect(f"http://127.0.0.1:{unused_port}/"), OK) as server:
        assert await verdict_of(client, server.url) == (Verdict.OK, "ok")


async def test_get_is_asked_when_head_leads_to_a_bad_certificate(client: Client, tmp_path: Path) -> None:
    async with (
        raw_server(OK, tls=self_signed_tls(tmp_path)) as nobody,
        raw_server(redirect(nobody.url), OK) as server,
    ):
        assert await verdict_of(client, server.url) == (Verdict.OK, "ok")


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://nowhere.example/",
        "ftp://127.0.0.1/",
        "/",
        "http://[x:y]/",
        "//a..example/",
    ],
)
async def test_get_is_asked_wherever_head_leads(client: Client, location: str) -> None:
    async with raw_server(redirect(location), OK) as server:
        assert await verdict_of(client, server.url) == (Verdict.OK, "ok")

        assert methods(server) == ["HEAD", "GET"]


async def test_get_is_asked_when_head_ends_well_at_another_host(client: Client) -> None:
    async with raw_server(OK) as other, raw_server(redirect(other.url), MISSING) as server:
        assert await verdict_of(client, server.url) == (Verdict.BROKEN, "http_404")

        assert (methods(other), methods(server)) == (["HEAD"], ["HEAD", "GET"])


async def test_get_is_not_asked_when_head_ends_well_at_the_same_host(client: Client) -> None:
    async with raw_server(redirect("/b"), OK) as server:
        assert await verdict_of(client, server.url) == (Verdict.OK, "ok")

        assert methods(server) == ["HEAD", "HEAD"]


async def test_a_host_that_cannot_be_reached_is_not_tried_with_get_too(
    client: Client, tmp_path: Path
) -> None:
    async with raw_server(OK, tls=self_signed_tls(tmp_path)) as nobody:
        assert await verdict_of(client, nobody.url) == (Verdict.BROKEN, "bad_certificate")

        assert nobody.heads == []


@pytest.mark.parametrize("busy", [BUSY, BUSY.replace(b"503 Busy", b"429 Slow")])
async def test_a_host_that_is_always_busy_for_head_is_asked_get_after_the_wait(
    client: Client, busy: bytes
) -> None:
    async with raw_server(busy, OK) as server:
        after_the_wait = replace(client, limiters=HostLimiters(), job=make_message(attempt=2))

        refused = await check(CheckArgs(url=server.url), replace(client, job=make_message(attempt=1)))
        answered = await verdict_of(after_the_wait, server.url)

        assert isinstance(refused, Failed)
        assert (refused.transient, refused.retry_after_seconds) == (True, 30)
        assert answered == (Verdict.OK, "ok")
        assert methods(server) == ["HEAD", "GET"]


async def test_a_busy_host_at_the_end_of_a_redirect_is_left_alone_too(client: Client) -> None:
    async with raw_server(redirect("/b"), BUSY) as server:
        assert await verdict_of(client, server.url) == (Verdict.DOWN, "http_503")

        assert methods(server) == ["HEAD", "HEAD"]


async def test_a_503_that_asks_for_no_wait_is_followed_by_get_at_once(client: Client) -> None:
    async with raw_server(BUSY.replace(b"Retry-After: 30\r\n", b""), OK) as server:
        assert await verdict_of(client, server.url) == (Verdict.OK, "ok")
